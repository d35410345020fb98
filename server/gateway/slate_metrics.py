"""Prometheus metrics of the slates that viewers are shown, and of what they are made from."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock

import numpy as np
from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from vireo.server.arrays import BoolArray
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.stages.answer import sources_of
from vireo.server.histogram import Histogram
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.candidate_pb2 import RetrieveCandidatesResponse
from vireo.v1.ranking_pb2 import RankCandidatesResponse

_BITS = 1 << 20
"""Size of a slice: enough to tell ten million videos to 2%."""
_SLICE_SECONDS = 600.0
_SLICES = 6
_MAX_WAITING = 2048
"""Masks that wait to be counted: numpy counts many at once in the time of one."""


class Coverage:
    """Number of distinct videos of the last hour, by linear counting, in slices of 1 MiB.

    Safe to use from several threads: a slice that is read meanwhile may lack the last videos.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing shown; `clock` returns seconds."""
        self._clock = clock
        self._slices: deque[tuple[float, BoolArray]] = deque(maxlen=_SLICES)
        """When each slice began, and which bits its videos have set; the current one is last."""
        self._slices.append((clock(), np.zeros(_BITS, np.bool_)))

    def add(self, keys: Sequence[int]) -> None:
        """Count videos as shown now; a key is a hash of 64 bits."""
        now = self._clock()
        if now - self._slices[-1][0] >= _SLICE_SECONDS:
            self._slices.append((now, np.zeros(_BITS, np.bool_)))
        self._slices[-1][1][np.array(keys, np.int64) & (_BITS - 1)] = True

    def estimate(self) -> float:
        """Return the number of distinct videos that were shown within the last 50 to 60 minutes."""
        since = self._clock() - _SLICES * _SLICE_SECONDS
        held = [bits for began, bits in [*self._slices] if began > since]
        if not held:
            return 0.0
        absent = _BITS - int(np.count_nonzero(np.logical_or.reduce(held)))
        return _BITS * math.log(_BITS / max(1, absent))


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


DEGRADATIONS = Counter(
    "vireo_degradations",
    "Degraded responses by kind; mixed_releases: candidates and ranking came from different "
    "releases.",
    ["kind"],
)


def kind_of(degradation: viewer_pb2.Degradation.ValueType) -> str:
    """Return the name of a degradation, for example "mixed_releases"."""
    return viewer_pb2.Degradation.Name(degradation).removeprefix("DEGRADATION_").lower()


def count_degradations(degradations: Iterable[viewer_pb2.Degradation.ValueType]) -> None:
    """Count the degradations of a response."""
    for degradation in degradations:
        DEGRADATIONS.labels(kind_of(degradation)).inc()


for _degradation in viewer_pb2.Degradation.values():
    if _degradation:  # so that each is exported as 0 before it happens
        DEGRADATIONS.labels(kind_of(_degradation))
