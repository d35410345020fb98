"""Reads the viewer's features within a budget."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from functools import partial

import structlog
from prometheus_client import Gauge
from vireo.v1.viewer_pb2 import ViewerFeatures

from server.gateway.circuit import Circuit
from server.gateway.features import FeatureReader, UnfitRowError, is_away
from server.gateway.last_features import LastFeatures
from server.gateway.query import RecommendQuery
from server.gateway.stages.attempt import StageFailedError, StageSkippedError
from server.pod.worker import Worker

log = structlog.get_logger()

_SHARE = 0.3
"""Share of the time left that the stage may use."""
_MIN_SECONDS = 0.001
"""Minimum budget of a read."""
_STUCK_SHARE = 0.75
"""Share of the timeout after which a read is stuck: those queued behind it would time out."""

_LOCKED_PAUSE_SECONDS = 0.002
"""Pause before another try to read a file that another process has locked."""

CIRCUIT_OPEN = Gauge(
    "vireo_feature_store_circuit_open",
    "1 while the online store is failing, so that requests skip it.",
)


class ReadFeatures:
    """Reads a local file at once, and any other store in a thread, since it may hang.

    A store that fails or hangs is skipped, but for a probe now and then.
    """

    def __init__(self, worker: Worker, timeout: float, last: LastFeatures) -> None:
        """Read in `worker`, with a timeout in seconds, and cache the results in `last`."""
        self._worker = worker
        self._timeout = timeout
        self._last = last
        self._circuit = Circuit()
        # Start time of the current read; set by the worker thread.
        self._reading_since: float | None = None

    async def __call__(self, query: RecommendQuery, reader: FeatureReader) -> ViewerFeatures:
        """Return the viewer's features.

        Raises:
            StageFailedError: the store failed or was too slow.
            StageSkippedError: the store was skipped.
        """
        budget = query.deadline.budget(self._timeout, _SHARE)
        if budget < _MIN_SECONDS:
            raise StageSkippedError(f"{1000 * budget:.1f} ms are too little for a read")
        if self._stuck():
            raise self._failed(StageSkippedError("the online store doesn't return from a read"))
        if not self._circuit.admits():
            raise StageSkippedError("the online store failed a moment ago")
        try:
            viewer = await self._fetch(reader, query.viewer_id, budget)
        except TimeoutError as error:
            failure = StageFailedError(f"the online store took more than {budget:.3f} s")
            # A timeout of a caller in a hurry, or of one among many, is no failure of the store.
            hangs = self._is_long(budget) if reader.local else self._stuck()
            raise (self._failed(failure) if hangs else failure) from error
        except UnfitRowError as error:
            self._succeeded()
            raise StageFailedError(f"the viewer's row can't be used: {error}") from error
        except Exception as error:
            # Declared policy: the viewer gets a slate without the store, which says so.
            raise self._failed(StageFailedError(f"{type(error).__name__}: {error}")) from error
        self._succeeded()
        self._last.keep(reader.dataset, query.viewer_id, viewer)
        return viewer

    def last(self, query: RecommendQuery, reader: FeatureReader) -> ViewerFeatures | None:
        """Return the cached features of the viewer; None if there are none."""
        return self._last.find(reader.dataset, query.viewer_id)

    def _stuck(self) -> bool:
        since = self._reading_since
        return since is not None and self._is_long(time.monotonic() - since)

    def _is_long(self, seconds: float) -> bool:
        return seconds > _STUCK_SHARE * self._timeout

    async def _fetch(self, reader: FeatureReader, viewer_id: str, budget: float) -> ViewerFeatures:
        if reader.local and (viewer := _read_unlocked(reader, viewer_id)) is not None:
            return viewer
        async with asyncio.timeout(budget):
            if not reader.local:
                return await self._worker.run(partial(self._read, reader, viewer_id))
            while True:
                await asyncio.sleep(_LOCKED_PAUSE_SECONDS)
                if (viewer := _read_unlocked(reader, viewer_id)) is not None:
                    return viewer

    def _read(self, reader: FeatureReader, viewer_id: str) -> ViewerFeatures:
        self._reading_since = time.monotonic()
        try:
            return reader.read(viewer_id)
        finally:
            self._reading_since = None

    def _failed(self, failure: StageFailedError) -> StageFailedError:
        closed = not self._circuit.open
        self._circuit.failed()
        if closed and self._circuit.open:
            CIRCUIT_OPEN.set(1)
            log.warning("online store skipped", reason=str(failure))
        return failure

    def _succeeded(self) -> None:
        if self._circuit.open:
            CIRCUIT_OPEN.set(0)
            log.info("online store available again")
        self._circuit.succeeded()


def _read_unlocked(reader: FeatureReader, viewer_id: str) -> ViewerFeatures | None:
    """Return the viewer's features; None while another process has locked the store's file."""
    try:
        return reader.read(viewer_id)
    except sqlite3.OperationalError as error:
        if is_away(error):
            return None
        raise
