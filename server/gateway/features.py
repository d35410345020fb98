"""Reads a viewer's row from the Feast online store."""

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
    """The store responded, but a viewer's row isn't valid input for the models."""


class FeatureReader:
    """Reads viewers' features. Use it from one thread at a time: reads share a connection."""

    def __init__(self, repo: Path, timeout: float) -> None:
        """Open the Feast repository in `repo`; no offline data is read.

        An online store that can't be reached is no error: viewers get slates without it until it
        is back.

        Args:
            repo: the folder.
            timeout: maximum seconds for Redis to connect, and for each response. For a SQLite
                file that another process has locked Feast waits 5 s.

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
        """The data set that the features come from."""
        self._repo, self._timeout = repo.absolute(), timeout
        try:
            self._open()
        except FeatureServiceNotFoundException as error:
            raise VireoError(
                f"{repo} has no feature service {FEATURE_SERVICE}; "
                f"build it again with: vireo features build {repo.name}"
            ) from error
        try:
            self.read("")  # which also warms Feast up for the first request
        except Exception as error:
            # Feast and its stores raise errors of any type; the cause goes into the message.
            reason = f"{type(error).__name__}: {error}"
            if not is_away(error):
                raise VireoError(
                    f"the online store of {repo} can't be read ({reason}); "
                    f"build it again with: vireo features build {repo.name}"
                ) from error
            log.warning("the online store can't be reached", repo=str(repo), reason=reason)

    def read(self, viewer_id: str) -> ViewerFeatures:
        """Return the viewer's current features; the defaults for an unknown viewer.

        Raises:
            UnfitRowError: the viewer's stored row can't be used.
            Exception: whatever the online store raises if it can't be read.
        """
        try:
            row = self._table.row(viewer_id)
        except sqlite3.Error as error:
            # A connection whose file was emptied or overwritten stays broken, even if the file is
            # valid again.
            if is_away(error) or _identity(self._file) == self._opened:
                raise
            self._open()
            row = self._table.row(viewer_id)
        return viewer_from_row(row)

    def _open(self) -> None:
        store = _open(self._repo, self._timeout)
        self._table = _Table.of(store)
        online = store.config.online_store
        self._file = self._repo / online.path if online.type == "sqlite" else None
        self._opened = _identity(self._file)  # it connects at the first read


@dataclass(frozen=True)
class _Table:
    """The feature service's views in the online store, resolved once.

    `FeatureStore.get_online_features` resolves them for each read, which takes three times as long
    as the read.
    """

    store: OnlineStore
    config: RepoConfig
    views: tuple[tuple[FeatureView, tuple[str, ...]], ...]
    """Each view of the service, and the names of its features."""

    @staticmethod
    def of(store: FeatureStore) -> _Table:
        """Resolve a store's views; raise FeatureServiceNotFoundException without the service."""
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
        """Return each feature of a viewer by name; None if nothing is stored."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        key = EntityKey(join_keys=["viewer_id"], entity_values=[Value(string_val=viewer_id)])
        row: dict[str, Any] = {}
        for view, names in self.views:
            # A new list for each read: the Redis store appends to it.
            [(_, stored)] = self.store.online_read(self.config, view, [key], list(names))
            stored = stored or {}
            row |= {name: _value(stored[name]) if name in stored else None for name in names}
        return row


def _value(stored: Value) -> Any:
    """Return the content of a Feast value, a list as a sequence; None if it is null."""
    kind = stored.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    value = getattr(stored, kind)
    return value.val if kind.endswith("_list_val") else value


def viewer_from_row(row: Mapping[str, Any]) -> ViewerFeatures:
    """Return the features of a row of `viewer_serving`; None stands for a missing value.

    Raises:
        UnfitRowError: pods would reject them.
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
        # An invalid row of one viewer is no failure of the store.
        raise UnfitRowError(f"{type(error).__name__}: {error}") from error
    if len(viewer.history_keys) != len(viewer.history_times):
        raise UnfitRowError(
            f"{len(viewer.history_keys)} videos in the history, {len(viewer.history_times)} times"
        )
    return viewer


def is_away(error: Exception) -> bool:
    """Return whether a store raised this because it is locked, down or doesn't respond."""
    if isinstance(error, sqlite3.OperationalError):
        code = getattr(error, "sqlite_errorcode", 0)  # absent if Python itself raised it
        return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    redis = sys.modules.get("redis.exceptions")  # imported if a Redis store raised it
    if redis is None or isinstance(error, redis.AuthenticationError | redis.AuthorizationError):
        return False
    return isinstance(error, redis.ConnectionError | redis.TimeoutError)


def _identity(file: Path | None) -> tuple[int, ...]:
    """Return what changes if a file is replaced or overwritten; empty if there is none."""
    try:
        found = file.stat() if file else None
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) if found else ()


def _open(repo: Path, timeout: float) -> FeatureStore:
    """Return the store of a repository, with timeouts for Redis.

    By default Feast waits for Redis forever, and its client retries with a backoff of seconds.
    Here reads aren't retried: requests have no time for it.
    """
    from feast import FeatureStore
    from feast.repo_config import load_repo_config

    config = load_repo_config(repo, repo / _CONFIGURATION)
    if config.online_store.type == "redis":
        config.online_store.connection_string += (
            f",socket_connect_timeout={timeout},socket_timeout={timeout},retry=null"
        )
    return FeatureStore(repo_path=str(repo), config=config)
