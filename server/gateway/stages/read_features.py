"""Reads the viewer's features within a budget."""

from __future__ import annotations

import time

import structlog
from prometheus_client import Gauge

from vireo.server.features.viewer_rows import UnfitRowError
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.last_features import LastFeatures
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.stages.call import StageFailedError, StageSkippedError
from vireo.server.histogram import Histogram
from vireo.server.rpc.spans import span
from vireo.v1.viewer_pb2 import ViewerFeatures

log = structlog.get_logger()

_FAILURES = 3
"""Consecutive failures after which the store is skipped: one may be chance."""
PAUSE_SECONDS = 0.5
"""Seconds between two reads while it is skipped."""

_SHARE = 0.3
"""Share of the time left that the stage may use."""
_MIN_SECONDS = 0.001
"""Minimum budget of a read."""
_SHORT_BUDGET_SECONDS = 0.05
"""A store that misses a shorter budget isn't at fault: the caller's deadline is."""

CIRCUIT_OPEN = Gauge(
    "vireo_feature_store_circuit_open",
    "1 while the online store is failing, so that requests skip it.",
)

READ_SECONDS = Histogram(
    "vireo_online_store_seconds",
    "Time of a read of a viewer's features, by outcome: ok, timeout or error.",
    ["outcome"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5),
)
_OK, _TIMEOUT, _ERROR = (READ_SECONDS.labels(each) for each in ("ok", "timeout", "error"))


class ReadFeatures:
    """Reads features; a store that fails or hangs is skipped, but for a read now and then."""

    def __init__(self, timeout: float, last: LastFeatures, *, exported: bool = True) -> None:
        """Start by reading.

        Args:
            timeout: maximum seconds of a read.
            last: caches the results.
            exported: whether CIRCUIT_OPEN says when the store is skipped; a process has one reader
                that is shown.
        """
        self._timeout, self._last, self._exported = timeout, last, exported
        self._failures = 0
        """Consecutive ones."""
        self._next_try = 0.0
        """When the store is read next while it is skipped, on the monotonic clock."""

    async def __call__(self, query: RecommendQuery, reader: FeatureReader) -> ViewerFeatures:
        """Return the viewer's features.

        Raises:
            StageFailedError: the store failed or was too slow.
            StageSkippedError: the caller left too little time, or the store was skipped.
        """
        now = time.monotonic()
        budget = query.budget(now, self._timeout, _SHARE)
        if budget < _MIN_SECONDS:
            raise StageSkippedError(f"{1000 * budget:.1f} ms are too little for a read")
        if self._failures >= _FAILURES:
            if now < self._next_try:
                raise StageSkippedError("the online store failed a moment ago", "circuit_open")
            self._next_try = now + PAUSE_SECONDS
        with span("features"):
            return await self._read(query.viewer_id, reader, budget)

    async def _read(self, viewer_id: str, reader: FeatureReader, budget: float) -> ViewerFeatures:
        now = time.monotonic()
        try:
            viewer = await reader.read(viewer_id, budget)
        except TimeoutError as error:
            _TIMEOUT.observe(time.monotonic() - now)
            if budget < min(self._timeout, _SHORT_BUDGET_SECONDS):
                text = f"{1000 * budget:.1f} ms were too little for a read"
                raise StageSkippedError(text) from error
            text = f"the online store took more than {budget:.3g} s"
            raise self._failed(StageFailedError(text, reason="timeout")) from error
        except UnfitRowError as error:
            self._succeeded(now)
            text = f"the viewer's row can't be used: {error}"
            raise StageFailedError(text, reason="invalid") from error
        except Exception as error:
            # Declared policy: the viewer gets a slate without the store, which says so.
            _ERROR.observe(time.monotonic() - now)
            raise self._failed(StageFailedError(f"{type(error).__name__}: {error}")) from error
        self._succeeded(now)
        self._last.keep(reader.dataset, viewer_id, viewer)
        return viewer

    def last(self, query: RecommendQuery, reader: FeatureReader) -> ViewerFeatures | None:
        """Return the cached features of the viewer; None if there are none."""
        return self._last.find(reader.dataset, query.viewer_id)

    def _failed(self, failure: StageFailedError) -> StageFailedError:
        self._failures += 1
        self._next_try = time.monotonic() + PAUSE_SECONDS
        if self._failures == _FAILURES:
            log.warning("online store skipped", reason=str(failure))
            if self._exported:
                CIRCUIT_OPEN.set(1)
        return failure

    def _succeeded(self, since: float) -> None:
        _OK.observe(time.monotonic() - since)
        if self._failures >= _FAILURES:
            log.info("online store available again")
            if self._exported:
                CIRCUIT_OPEN.set(0)
        self._failures = 0
