"""Reads a viewer's row from the Feast online store."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import Gauge

from vireo.server.errors import VireoError
from vireo.server.features.online_store import CONFIGURATION, RedisSettings, identity, open_features
from vireo.server.gateway.online_rows import (
    FEATURE_SERVICE,
    FeastRows,
    Row,
    SqliteRows,
    is_locked,
    views_of,
)
from vireo.server.rpc.background_check import BackgroundCheck
from vireo.v1.viewer_pb2 import ViewerFeatures

log = structlog.get_logger()

_LOOK_SECONDS = 1.0
"""Seconds after which a read has the files looked at: the features may have been built again."""

BUILT = Gauge(
    "vireo_features_built_timestamp_seconds",
    "When the features that are read were built; NaN until a release is served.",
)
BUILT.set(math.nan)


class UnfitRowError(Exception):
    """The store responded, but a viewer's row isn't valid input for the models."""


class FeatureReader:
    """Reads viewers' features. Use it from one event loop."""

    def __init__(self, repo: Path, timeout: float, redis: RedisSettings | None = None) -> None:
        """Open the Feast repository in `repo`; no offline data is read. Call it outside of a loop.

        An online store that can't be reached is no error: viewers get slates without it until it
        is back.

        Args:
            repo: the folder.
            timeout: maximum seconds for Redis to connect, and for each response.
            redis: where Redis is; of this process's environment if None.

        Raises:
            VireoError: there is none, it lacks the feature service, or its online store
                can't be read.
        """
        # Imported here: it takes seconds, and only a process that reads features needs it.
        from feast.errors import FeatureServiceNotFoundException

        if not (repo / CONFIGURATION).exists():
            raise VireoError(
                f"there are no features in {repo}; "
                f"build them with: vireo features build {repo.name}"
            )
        self.dataset = repo.name
        """The data set that the features come from."""
        self._repo, self._timeout, self._redis = repo.absolute(), timeout, redis
        self._built: tuple[int, ...] = ()
        self._rebuilt = BackgroundCheck(self._open_if_rebuilt, _LOOK_SECONDS)
        try:
            self._open()
        except FeatureServiceNotFoundException as error:
            raise VireoError(
                f"{repo} has no feature service {FEATURE_SERVICE}; "
                f"build it again with: vireo features build {repo.name}"
            ) from error
        try:
            asyncio.run(self.read("", timeout))  # which also warms Feast up for the first request
        except Exception as error:
            # Feast and its stores raise errors of any type; the cause goes into the message.
            reason = f"{type(error).__name__}: {error}"
            if not is_away(error):
                raise VireoError(
                    f"the online store of {repo} can't be read ({reason}); "
                    f"build it again with: vireo features build {repo.name}"
                ) from error
            log.warning("the online store can't be reached", repo=str(repo), reason=reason)
        if isinstance(self._rows, FeastRows):
            self._open()  # a connection to Redis belongs to the event loop of its first read

    async def read(self, viewer_id: str, seconds: float) -> ViewerFeatures:
        """Return the viewer's current features; the defaults for an unknown viewer.

        Features that were built again are opened in a thread, for the reads that begin later.

        Raises:
            TimeoutError: it takes more than `seconds`.
            UnfitRowError: the viewer's stored row can't be used.
            Exception: whatever the online store raises if it can't be read.
        """
        self._rebuilt.start_if_due()
        try:
            row = await self._rows.read(viewer_id, seconds)
        except sqlite3.Error as error:
            if is_locked(error):
                raise
            # A connection whose file was emptied or overwritten stays broken, even if the file is
            # valid again.
            self._built = ()
            async with asyncio.timeout(seconds):
                await asyncio.wrap_future(self._rebuilt.start())
            row = await self._rows.read(viewer_id, seconds)
        return viewer_from_row(*row)

    def _open_if_rebuilt(self) -> None:
        """Open the features that were built since, where the consumer of events goes on."""
        built = identity(self._repo)
        if not built or built == self._built:
            return
        try:
            self._open()
        except Exception as error:  # noqa: BLE001  # Feast raises errors of any type
            self._built = built
            log.warning("can't open the features built last", reason=str(error))
            return
        log.info("opened the features built last", repo=str(self._repo))

    def _open(self) -> None:
        built = identity(self._repo)
        store = open_features(self._repo, self._redis, self._timeout)
        online = store.config.online_store
        views = views_of(store)
        self._rows = (
            SqliteRows(store, views, self._repo / online.path)
            if online.type == "sqlite"
            else FeastRows(store, views)
        )
        self._built = built
        if built:
            BUILT.set(built[-1] / 1e9)


def viewer_from_row(row: Row, updated_at: int = 0) -> ViewerFeatures:
    """Return the features of a row of `viewer_serving`; what is absent or null has its default.

    The history is the end of `watched_keys`, as far back as it has times.

    Args:
        row: the features by name.
        updated_at: when they last changed, Unix seconds; 0 if unknown.

    Raises:
        UnfitRowError: pods would reject them.
    """
    watched = _list(row, "watched_keys", "int64_list_val")
    times = _list(row, "history_times", "int64_list_val")
    hidden = _list(row, "hidden_keys", "int64_list_val")
    hidden_times = _list(row, "hidden_times", "int64_list_val")
    start = len(watched) - len(times)
    if start < 0:
        raise UnfitRowError(f"{len(watched)} videos watched, {len(times)} times in the history")
    if len(hidden) != len(hidden_times):
        raise UnfitRowError(f"{len(hidden)} videos hidden, {len(hidden_times)} times of that")
    return ViewerFeatures(
        # A whole column is copied at once, a part of it number by number.
        history_keys=watched[start:] if start else watched,
        history_times=times,
        watched_keys=watched,
        attributes=_list(row, "attributes", "string_list_val"),
        watch_count=_value(row, "viewer_watch_count", "int64_val") or 0,
        like_count=_value(row, "viewer_like_count", "int64_val") or 0,
        hidden_keys=hidden,
        hidden_times=hidden_times,
        updated_at=updated_at,
    )


def _list(row: Row, name: str, kind: str) -> Sequence[Any]:
    stored = _value(row, name, kind)
    return () if stored is None else stored.val


def _value(row: Row, name: str, kind: str) -> Any:
    """Return a feature's value; None if it is absent or null."""
    stored = row.get(name)
    found = stored and stored.WhichOneof("val")
    if found == kind:
        return getattr(stored, kind)
    if found in (None, "null_val"):
        return None
    raise UnfitRowError(f"{name} is stored as {found} instead of {kind}")


def is_away(error: Exception) -> bool:
    """Return whether a store raised this because it is locked, down or doesn't respond."""
    if isinstance(error, sqlite3.Error):
        return is_locked(error)
    if isinstance(error, TimeoutError):
        return True
    redis = sys.modules.get("redis.exceptions")  # imported if a Redis store raised it
    if redis is None or isinstance(error, redis.AuthenticationError | redis.AuthorizationError):
        return False
    return isinstance(error, redis.ConnectionError | redis.TimeoutError)
