"""Reads a viewer's row from the Feast online store."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import sys
from pathlib import Path

import structlog
from prometheus_client import Gauge

from vireo.server.errors import VireoError
from vireo.server.features.online_store import RedisSettings, identity, open_rows
from vireo.server.features.sqlite_store import is_locked
from vireo.server.features.viewer_rows import features_of
from vireo.server.features.viewer_store import StoreAwayError
from vireo.server.rpc.tls import BackgroundCheck
from vireo.v1.viewer_pb2 import ViewerFeatures

log = structlog.get_logger()

_LOOK_SECONDS = 1.0
"""Seconds after which a read has the files looked at: the features may have been built again."""

BUILT = Gauge(
    "vireo_features_built_timestamp_seconds",
    "When the features that are read were built; NaN until a release is served.",
)
BUILT.set(math.nan)


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
            VireoError: there is none, or its online store can't be read.
        """
        self.dataset = repo.name
        """The data set that the features come from."""
        self._repo, self._redis, self._timeout = repo.absolute(), redis, timeout
        self._built: tuple[int, ...] = ()
        self._rebuilt = BackgroundCheck(self._open_if_rebuilt, _LOOK_SECONDS)
        self._open()
        try:
            self._rows.features("")  # which also warms Feast up for the first request
        except StoreAwayError as error:
            if not is_away(error.__cause__):
                raise VireoError(
                    f"the online store of {repo} can't be read ({error}); "
                    f"build it again with: vireo features build --data {repo.name}"
                ) from error
            log.warning("the online store can't be reached", repo=str(repo), reason=str(error))

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
            stored = await self._rows.fetch_served(viewer_id, seconds)
        except sqlite3.Error as error:
            if is_locked(error):
                raise
            # A connection whose file was emptied or overwritten stays broken, even if the file is
            # valid again.
            self._built = ()
            async with asyncio.timeout(seconds):
                await asyncio.wrap_future(self._rebuilt.start())
            stored = await self._rows.fetch_served(viewer_id, seconds)
        return features_of(*stored)

    def _open_if_rebuilt(self) -> None:
        """Open the features that were built since, where the consumer of events goes on."""
        built = identity(self._repo)
        if not built or built == self._built:
            return
        try:
            self._open()
        except VireoError as error:
            self._built = built
            log.warning("can't open the features built last", reason=str(error))
            return
        log.info("opened the features built last", repo=str(self._repo))

    def _open(self) -> None:
        built = identity(self._repo)
        self._rows = open_rows(self._repo, self._timeout, self._redis, served=True)
        self._built = built
        if built:
            BUILT.set(built[-1] / 1e9)


def is_away(error: BaseException | None) -> bool:
    """Return whether a store raised this because it is locked, down or doesn't respond."""
    if isinstance(error, sqlite3.Error):
        return is_locked(error)
    if isinstance(error, TimeoutError):
        return True
    redis = sys.modules.get("redis.exceptions")  # imported if a Redis store raised it
    if redis is None or isinstance(error, redis.AuthenticationError | redis.AuthorizationError):
        return False
    return isinstance(error, redis.ConnectionError | redis.TimeoutError)
