"""Prometheus metrics of the slates that viewers are shown, and of what they are made from."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt
from prometheus_client import REGISTRY, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.stages.answer import sources_of
from vireo.server.histogram import Histogram
from vireo.server.pipeline.stage_metrics import SECONDS
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.candidate_pb2 import RetrieveCandidatesResponse
from vireo.v1.ranking_pb2 import RankCandidatesResponse

_REGISTER_BITS = 12
_REGISTERS = 1 << _REGISTER_BITS
_BIAS = 0.7213 / (1 + 1.079 / _REGISTERS)
_SLICE_SECONDS = 600.0
_SLICES = 6
_MAX_WAITING = 2048
"""Keys or masks that wait to be counted: numpy counts many at once in the time of one."""


class Coverage:
    """HyperLogLog of the last hour, in slices: 26 KiB, and an error of 2%.

    Safe to use from several threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing shown; `clock` returns seconds."""
        self._clock = clock
        self._lock = Lock()
        self._waiting: list[int] = []
        self._slices: deque[tuple[float, npt.NDArray[np.uint8]]] = deque(maxlen=_SLICES)
        """When each slice began, and its registers; the current one is last."""
        self._slices.append((clock(), np.zeros(_REGISTERS, np.uint8)))

    def add(self, keys: Sequence[int]) -> None:
        """Count videos as shown now; a key is a hash of 64 bits."""
        with self._lock:
            if len(self._waiting) >= _MAX_WAITING or self._slice_is_over:
                self._count()
            self._waiting.extend(keys)

    def estimate(self) -> float:
        """Return the number of distinct videos that were shown within the last 50 to 60 minutes."""
        with self._lock:
            self._count()
            since = self._clock() - _SLICES * _SLICE_SECONDS
            held = [registers for began, registers in self._slices if began > since]
        if not held:
            return 0.0
        union = np.maximum.reduce(held)
        absent = np.count_nonzero(union == 0)
        estimate = _BIAS * _REGISTERS**2 / np.exp2(-union.astype(np.float64)).sum()
        if absent and estimate <= 2.5 * _REGISTERS:
            estimate = _REGISTERS * np.log(_REGISTERS / absent)  # linear counting
        return float(estimate)

    @property
    def _slice_is_over(self) -> bool:
        return self._clock() - self._slices[-1][0] >= _SLICE_SECONDS

    def _count(self) -> None:
        """Count the keys that wait in the current slice; begin a new one if it is over."""
        registers = self._slices[-1][1]
        hashes = np.array(self._waiting, np.int64).view(np.uint64)
        self._waiting.clear()
        rest = hashes >> np.uint64(_REGISTER_BITS)
        lowest = rest & (~rest + np.uint64(1))  # its lowest bit alone
        _, ranks = np.frexp(lowest.astype(np.float64))  # that bit's place, from 1; 0 without one
        places = (hashes & np.uint64(_REGISTERS - 1)).astype(np.intp)
        np.maximum.at(registers, places, ranks.astype(np.uint8))
        if self._slice_is_over:
            self._slices.append((self._clock(), np.zeros(_REGISTERS, np.uint8)))


_FEATURES, _RETRIEVAL, _RANKING, _ANSWER = (
    SECONDS.labels("gateway", stage) for stage in ("features", "retrieval", "ranking", "answer")
)
_DAY = 86_400
FEATURE_AGE = Histogram(
    "vireo_feature_age_seconds",
    "How long ago a viewer's features had changed when they were read.",
    buckets=(
        *(10, 60, 300, 900, 3600, 6 * 3600),
        *(_DAY, 3 * _DAY, 7 * _DAY, 30 * _DAY, 90 * _DAY, 365 * _DAY),
    ),
).labels()
_KNOWN = sum(1 << number for number in viewer_pb2.Source.values() if number)
"""Bits of the sources that this build knows."""


class _SlateCounts(Collector):
    """Counts of slates and of their videos, added up by scrapes and every few hundred slates.

    The client library's counters would take five times as long for each slate.
    """

    def __init__(self) -> None:
        self._slates = [[0, 0], [0, 0]]
        """Number of slates, by whether they follow a video and whether they are degraded."""
        self._videos = 0
        self._of_no_source = 0
        """Videos of the popular list."""
        self._waiting: list[int] = []
        """Masks of videos that aren't in `_by_mask` yet."""
        self._by_mask = np.zeros(_KNOWN + 1, np.int64)
        self._lock = Lock()

    def add(self, masks: Sequence[int], videos: int, *, up_next: bool, degraded: bool) -> None:
        """Count a slate of some videos, and the masks of those that sources proposed."""
        with self._lock:
            self._slates[up_next][degraded] += 1
            self._videos += videos
            self._of_no_source += videos - len(masks)
            self._waiting += masks
            if len(self._waiting) >= _MAX_WAITING:
                self._count()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the families."""
        with self._lock:
            self._count()
            by_mask = self._by_mask.tolist()
            by_mask[0] += self._of_no_source
            counted = [
                (surface, degraded, self._slates[up_next][is_degraded])
                for up_next, surface in enumerate(("home", "up_next"))
                for is_degraded, degraded in enumerate(("no", "yes"))
            ]
            videos = self._videos
        slates = CounterMetricFamily(
            "vireo_slates",
            "Slates by surface, and whether they declare a degradation; without those of batches.",
            labels=["surface", "degraded"],
        )
        for surface, degraded, count in counted:
            slates.add_metric([surface, degraded], count)
        counts = dict.fromkeys(viewer_pb2.Source.values(), 0)
        for mask, count in enumerate(by_mask):
            for number in sources_of(mask) or (viewer_pb2.SOURCE_UNSPECIFIED,):
                counts[number] += count
        sources = CounterMetricFamily(
            "vireo_slate_videos",
            "Videos in slates, once for each candidate source that proposed them.",
            labels=["source"],
        )
        for number, count in counts.items():
            name = viewer_pb2.Source.Name(number).removeprefix("SOURCE_").lower()
            sources.add_metric([name if number else "none"], count)
        yield from (
            slates,
            sources,
            CounterMetricFamily("vireo_videos_shown", "Videos in slates.", value=videos),
        )

    def _count(self) -> None:
        """Count the masks that wait."""
        masks = np.array(self._waiting, np.int64) & _KNOWN
        self._by_mask += np.bincount(masks, minlength=len(self._by_mask))
        self._waiting.clear()


_COUNTS = _SlateCounts()
REGISTRY.register(_COUNTS)
_COVERAGE = Coverage()
Gauge(
    "vireo_coverage_videos",
    "Distinct videos that this gateway put into slates within the last 50 to 60 minutes, to 2%.",
).set_function(_COVERAGE.estimate)


def count_slate(
    query: RecommendQuery,
    slate: pb.RecommendResponse,
    made_from: RetrieveCandidatesResponse | RankCandidatesResponse | None,
) -> None:
    """Count a slate that a viewer is shown, and its videos.

    Args:
        query: what it was made for.
        slate: the slate.
        made_from: the videos that it begins with, ranked or not; None for the popular list.
    """
    count = len(slate.items)
    keys: Sequence[int] = ()
    masks: Sequence[int] = ()
    if made_from is not None:
        keys, masks = made_from.keys[:count], made_from.source_masks[:count]
        _COVERAGE.add(keys)
    _COUNTS.add(masks, count, up_next=query.seed_key is not None, degraded=bool(slate.degradations))


def time_stages(started: float, read: float, retrieved: float, ranked: float) -> None:
    """Observe the times of a slate's stages, which ended at these seconds; the answer ends now."""
    _FEATURES.observe(read - started)
    _RETRIEVAL.observe(retrieved - read)
    if ranked > retrieved:
        _RANKING.observe(ranked - retrieved)
    _ANSWER.observe(time.perf_counter() - ranked)
