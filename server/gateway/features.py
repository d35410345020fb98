"""Reads one viewer's row from the Feast online store."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from server.errors import VireoError
from server.features.keys import video_keys
from server.features.viewer import ViewerFeatures

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView
    from feast.infra.online_stores.online_store import OnlineStore
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.repo_config import RepoConfig

log = structlog.get_logger()

FEATURE_SERVICE = "viewer_serving"
_CONFIGURATION = "feature_store.yaml"


class UnfitRowError(Exception):
    """The store answered, but a viewer's row is not one that the models could take."""


class FeatureReader:
    """Reads viewers' features. One thread at a time: SQLite reads share a connection."""

    def __init__(self, repo: Path, timeout: float) -> None:
        """Opens the Feast repository's state in `repo`; reads no offline data.

        A store that can't be reached now is no error: it may be back soon, and viewers get
        answers without it meanwhile.

        Args:
            repo: the folder.
            timeout: most seconds that Redis may take to connect, and for each answer. A SQLite
                file that another process has locked is waited for as long as Feast has it, 5 s.

        Raises:
            VireoError: there is none, it lacks the feature service, or its online store
                can't be read.
        """
        # Imported here: it takes seconds, and only a process that reads features needs it.
        from feast.errors import FeatureServiceNotFoundException

        if not (repo / _CONFIGURATION).exists():
            raise VireoError(
                f"there are no features in {repo}; "
                f"build them with: vireo features build {repo.name}"
            )
        self.dataset = repo.name
        """The data set whose viewers it knows."""
        self._repo, self._timeout = repo.absolute(), timeout
        try:
            self._open()
        except FeatureServiceNotFoundException as error:
            raise VireoError(
                f"{repo} has no feature service {FEATURE_SERVICE}; "
                f"build it again with: vireo features build {repo.name}"
            ) from error
        try:
            self.read("")  # also spares the first request what Feast prepares on a first read
        except Exception as error:
            # Feast and its stores raise whatever they like; the cause goes into the message.
            reason = f"{type(error).__name__}: {error}"
            if not is_away(error):
                raise VireoError(
                    f"the online store of {repo} can't be read ({reason}); "
                    f"build it again with: vireo features build {repo.name}"
                ) from error
            log.warning("the online store can't be reached", repo=str(repo), reason=reason)

    def read(self, viewer_id: str) -> ViewerFeatures:
        """The viewer's features now; the defaults for a viewer nobody knows.

        Raises:
            UnfitRowError: what is stored of this viewer can't be used.
            Exception: whatever the online store raises when it can't be read.
        """
        try:
            return self._read(viewer_id)
        except sqlite3.Error as error:
            # A connection whose file was emptied or overwritten never reads again, also when the
            # file is whole once more.
            if is_away(error) or _identity(self._file) == self._opened:
                raise
        self._open()
        return self._read(viewer_id)

    def _open(self) -> None:
        store = _open(self._repo, self._timeout)
        self._table = _Table.of(store)
        online = store.config.online_store
        self._file = self._repo / online.path if online.type == "sqlite" else None
        self._opened = _identity(self._file)  # it connects at the first read, not before

    def _read(self, viewer_id: str) -> ViewerFeatures:
        return viewer_from_row(self._table.row(viewer_id))


@dataclass(frozen=True)
class _Table:
    """The online store's part of the feature service, with all that is the same in every read.

    `FeatureStore.get_online_features` finds it out anew each time, which takes three times as long
    as the read.
    """

    store: OnlineStore
    config: RepoConfig
    views: tuple[tuple[FeatureView, tuple[str, ...]], ...]
    """Each view of the service, and the names of its features there."""

    @staticmethod
    def of(store: FeatureStore) -> _Table:
        """Raises FeatureServiceNotFoundException where there is no such service."""
        from feast.infra.online_stores.helpers import get_online_store_from_config

        service = store.get_feature_service(FEATURE_SERVICE)
        return _Table(
            get_online_store_from_config(store.config.online_store),
            store.config,
            tuple(
                (
                    store.get_feature_view(projection.name),
                    tuple(feature.name for feature in projection.features),
                )
                for projection in service.feature_view_projections
            ),
        )

    def row(self, viewer_id: str) -> dict[str, Any]:
        """Every feature of a viewer by name; None where nothing is stored."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        key = EntityKey(join_keys=["viewer_id"], entity_values=[Value(string_val=viewer_id)])
        row: dict[str, Any] = {}
        for view, names in self.views:
            # A list of its own for each read: the Redis store appends to what it is given.
            [(_, stored)] = self.store.online_read(self.config, view, [key], list(names))
            stored = stored or {}
            row |= {name: _value(stored[name]) if name in stored else None for name in names}
        return row


def _value(stored: Value) -> Any:
    """What a Feast value holds, a list as a sequence; None where it holds nothing."""
    kind = stored.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    value = getattr(stored, kind)
    return value.val if kind.endswith("_list_val") else value


def viewer_from_row(row: Mapping[str, Any]) -> ViewerFeatures:
    """The features of one row of `viewer_serving`, by name; None stands for a missing value.

    Raises:
        UnfitRowError: pods would refuse them.
    """
    try:
        viewer = ViewerFeatures(
            history_keys=video_keys(row["history_ids"] or ()),
            history_times=np.array(row["history_times"] or (), np.int64),
            watched_keys=np.array(row["watched_keys"] or (), np.int64),
            attributes=tuple(row["attributes"] or ()),
            watch_count=row["viewer_watch_count"] or 0,
            like_count=row["viewer_like_count"] or 0,
        )
    except Exception as error:
        # Whatever is wrong with one viewer's row says nothing of the store: others go on.
        raise UnfitRowError(f"{type(error).__name__}: {error}") from error
    if len(viewer.history_keys) != len(viewer.history_times):
        raise UnfitRowError(
            f"{len(viewer.history_keys)} videos in the history, {len(viewer.history_times)} times"
        )
    return viewer


def is_away(error: Exception) -> bool:
    """Whether a store raised this because it is locked, down or doesn't answer."""
    if isinstance(error, sqlite3.OperationalError):
        code = getattr(error, "sqlite_errorcode", 0)  # not there where Python raised it
        return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    redis = sys.modules.get("redis.exceptions")  # there if it is what raised
    if redis is None or isinstance(error, redis.AuthenticationError | redis.AuthorizationError):
        return False
    return isinstance(error, redis.ConnectionError | redis.TimeoutError)


def _identity(file: Path | None) -> tuple[int, ...]:
    """What tells whether a file is another, or has another content; empty where there is none."""
    try:
        found = file.stat() if file else None
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) if found else ()


def _open(repo: Path, timeout: float) -> FeatureStore:
    """The store of a repository, with limits to how long Redis may take.

    By itself Feast waits for Redis without end, and its client repeats what failed with pauses
    of seconds between. A read that failed is not repeated here: the request has no time for it.
    """
    from feast import FeatureStore
    from feast.repo_config import load_repo_config

    config = load_repo_config(repo, repo / _CONFIGURATION)
    if config.online_store.type == "redis":
        config.online_store.connection_string += (
            f",socket_connect_timeout={timeout},socket_timeout={timeout},retry=null"
        )
    return FeatureStore(repo_path=str(repo), config=config)
