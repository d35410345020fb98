"""Reads the viewer's features within a budget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from prometheus_client import Gauge

from vireo.server.features.viewer_rows import UnfitRowError
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.last_features import LastFeatures
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.stages.failure import (
    StageFailedError,
    StageSkippedError,
    StoreSkippedError,
)
from vireo.server.histogram import Histogram
from vireo.server.tracing.spans import span
from vireo.v1.viewer_pb2 import ViewerFeatures

log = structlog.get_logger()

_FAILURES = 3
"""Consecutive failures that open the circuit: one may be chance."""
PAUSE_SECONDS = 0.5
"""Seconds between two probes while it is open."""

_SHARE = 0.3
"""Share of the time left that the stage may use."""
_MIN_SECONDS = 0.001
"""Minimum budget of a read."""
_MAX_ORPHANED_READS = 64
"""Maximum reads that go on though their callers have left."""

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


class Circuit:
    """Closed while calls succeed; open after consecutive failures.

    While it is open, one call in PAUSE_SECONDS is admitted. Its success closes the circuit.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._next_try = 0.0

    @property
    def open(self) -> bool:
        """Whether calls are stopped."""
        return self._failures >= _FAILURES

    def admits(self) -> bool:
        """Return whether a call may be made now; count its end with one of the methods below."""
        if not self.open:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        self._next_try = now + PAUSE_SECONDS
        return True

    def succeeded(self) -> bool:
        """Count a call that succeeded; return whether it closed the circuit."""
        was_open, self._failures = self.open, 0
        return was_open

    def failed(self) -> bool:
        """Count a call that failed; return whether it opened the circuit."""
        self._failures += 1
        self._next_try = self._clock() + PAUSE_SECONDS
        return self._failures == _FAILURES


class ReadFeatures:
    """Reads features; a store that fails or hangs is skipped, but for a probe now and then."""

    def __init__(self, timeout: float, last: LastFeatures, *, exported: bool = True) -> None:
        """Start with a closed circuit: the store is asked.

        Args:
            timeout: maximum seconds of a read.
            last: caches the results.
            exported: whether CIRCUIT_OPEN shows this circuit; a process has one that is shown.
        """
        self._timeout = timeout
        self._exported = exported
        self._last = last
        self._circuit = Circuit()
        self._orphaned: set[asyncio.Task[ViewerFeatures]] = set()
        """Reads whose callers may have left."""

    async def __call__(self, query: RecommendQuery, reader: FeatureReader) -> ViewerFeatures:
        """Return the viewer's features.

        Raises:
            StageFailedError: the store failed or was too slow.
            StageSkippedError: the caller left too little time, or the store was skipped.
        """
        budget = query.budget(time.monotonic(), self._timeout, _SHARE)
        if budget < _MIN_SECONDS:
            raise StageSkippedError(f"{1000 * budget:.1f} ms are too little for a read")
        if not self._circuit.admits():
            raise StoreSkippedError("the online store failed a moment ago")
        with span("features"):
            if budget >= self._timeout:
                return await self._read(query.viewer_id, reader)
            return await self._read_within(query.viewer_id, reader, budget)

    async def _read_within(
        self, viewer_id: str, reader: FeatureReader, budget: float
    ) -> ViewerFeatures:
        """Return features that are there within the budget; the read itself has all of its time.

        So its end says something of the store, and nothing of the caller.
        """
        if len(self._orphaned) >= _MAX_ORPHANED_READS:
            raise StoreSkippedError("the online store keeps too many reads waiting")
        reading = asyncio.ensure_future(self._read(viewer_id, reader))
        self._orphaned.add(reading)
        reading.add_done_callback(self._ended)
        await asyncio.wait([reading], timeout=budget)
        if not reading.done():
            raise StageSkippedError(f"{1000 * budget:.1f} ms were too little for a read")
        return reading.result()

    def _ended(self, reading: asyncio.Task[ViewerFeatures]) -> None:
        self._orphaned.discard(reading)
        if not reading.cancelled():
            reading.exception()  # which was counted, also if nobody waits for it

    async def _read(self, viewer_id: str, reader: FeatureReader) -> ViewerFeatures:
        """Return features, and count how the read ended; it may take the whole timeout."""
        now = time.monotonic()
        try:
            viewer = await reader.read(viewer_id, self._timeout)
        except TimeoutError as error:
            _TIMEOUT.observe(time.monotonic() - now)
            failure = StageFailedError(f"the online store took more than {self._timeout:g} s")
            raise self._failed(failure) from error
        except UnfitRowError as error:
            _OK.observe(time.monotonic() - now)
            self._succeeded()
            raise StageFailedError(f"the viewer's row can't be used: {error}") from error
        except Exception as error:
            # Declared policy: the viewer gets a slate without the store, which says so.
            _ERROR.observe(time.monotonic() - now)
            raise self._failed(StageFailedError(f"{type(error).__name__}: {error}")) from error
        _OK.observe(time.monotonic() - now)
        self._succeeded()
        self._last.keep(reader.dataset, viewer_id, viewer)
        return viewer

    def last(self, query: RecommendQuery, reader: FeatureReader) -> ViewerFeatures | None:
        """Return the cached features of the viewer; None if there are none."""
        return self._last.find(reader.dataset, query.viewer_id)

    def _failed(self, failure: StageFailedError) -> StageFailedError:
        if self._circuit.failed():
            self._export()
            log.warning("online store skipped", reason=str(failure))
        return failure

    def _succeeded(self) -> None:
        if self._circuit.succeeded():
            self._export()
            log.info("online store available again")

    def _export(self) -> None:
        if self._exported:
            CIRCUIT_OPEN.set(self._circuit.open)
