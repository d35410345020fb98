"""Reads the viewer's features within a budget."""

from __future__ import annotations

import time

import structlog
from prometheus_client import Gauge
from vireo.v1.viewer_pb2 import ViewerFeatures

from server.gateway.circuit import Circuit
from server.gateway.features import FeatureReader, UnfitRowError
from server.gateway.last_features import LastFeatures
from server.gateway.query import RecommendQuery
from server.gateway.stages.failure import StageFailedError, StageSkippedError
from server.histogram import Histogram
from server.tracing.spans import span

log = structlog.get_logger()

_SHARE = 0.3
"""Share of the time left that the stage may use."""
_MIN_SECONDS = 0.001
"""Minimum budget of a read."""
_HANG_SHARE = 0.75
"""Share of the timeout for which the store must have answered no read to count as hanging."""

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
        self._unanswered_since: float | None = None
        """Start of the first read since the store last answered one."""

    async def __call__(self, query: RecommendQuery, reader: FeatureReader) -> ViewerFeatures:
        """Return the viewer's features.

        Raises:
            StageFailedError: the store failed or was too slow.
            StageSkippedError: the store was skipped.
        """
        now = time.monotonic()
        budget = query.budget(now, self._timeout, _SHARE)
        if budget < _MIN_SECONDS:
            raise StageSkippedError(f"{1000 * budget:.1f} ms are too little for a read")
        if not self._circuit.admits():
            raise StageSkippedError("the online store failed a moment ago")
        if self._unanswered_since is None:
            self._unanswered_since = now
        try:
            with span("features"):
                viewer = await reader.read(query.viewer_id, budget)
        except TimeoutError as error:
            _TIMEOUT.observe(time.monotonic() - now)
            failure = StageFailedError(f"the online store took more than {budget:.3f} s")
            # A timeout of a caller in a hurry is no failure of the store.
            raise (self._failed(failure) if self._hangs() else failure) from error
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
        self._last.keep(reader.dataset, query.viewer_id, viewer)
        return viewer

    def last(self, query: RecommendQuery, reader: FeatureReader) -> ViewerFeatures | None:
        """Return the cached features of the viewer; None if there are none."""
        return self._last.find(reader.dataset, query.viewer_id)

    def _hangs(self) -> bool:
        since = self._unanswered_since
        return since is not None and time.monotonic() - since > _HANG_SHARE * self._timeout

    def _failed(self, failure: StageFailedError) -> StageFailedError:
        if self._circuit.failed():
            self._export()
            log.warning("online store skipped", reason=str(failure))
        return failure

    def _succeeded(self) -> None:
        self._unanswered_since = None
        if self._circuit.succeeded():
            self._export()
            log.info("online store available again")

    def _export(self) -> None:
        if self._exported:
            CIRCUIT_OPEN.set(self._circuit.open)
