"""Prometheus metrics of the slates that viewers are shown, and of what they are made from."""

from __future__ import annotations

import math
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from prometheus_client import Counter, Gauge, Histogram

from vireo.server.arrays import BoolArray
from vireo.server.features.keys import video_key
from vireo.server.gateway.query import RecommendQuery
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

_BITS = 1 << 20
"""Size of a slice: enough to tell ten million videos to 2%."""
_SLICE_SECONDS, _SLICES = 600.0, 6
_DAY = 86_400

FEATURE_AGE = Histogram(
    "vireo_feature_age_seconds",
    "How long ago a viewer's features had changed when they were read.",
    buckets=(
        *(10, 60, 300, 900, 3600, 6 * 3600),
        *(_DAY, 3 * _DAY, 7 * _DAY, 30 * _DAY, 90 * _DAY, 365 * _DAY),
    ),
)
_SLATES = Counter(
    "vireo_slates",
    "Slates by surface, and whether they declare a degradation; without those of batches.",
    ["surface", "degraded"],
)
_SLATES_OF = {
    (up_next, degraded): _SLATES.labels(
        "up_next" if up_next else "home", "yes" if degraded else "no"
    )
    for up_next in (False, True)
    for degraded in (False, True)
}
_VIDEOS = Counter("vireo_videos_shown", "Videos in slates.")
_VIDEOS_BY_SOURCE = Counter(
    "vireo_slate_videos",
    "Videos in slates, once for each candidate source that proposed them.",
    ["source"],
)
_VIDEOS_OF = {
    number: _VIDEOS_BY_SOURCE.labels(name.removeprefix("SOURCE_").lower() if number else "none")
    for name, number in viewer_pb2.Source.items()
}
DEGRADATIONS = Counter(
    "vireo_degradations",
    "Degraded responses by kind; mixed_releases: candidates and ranking came from different "
    "releases.",
    ["kind"],
)


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


_COVERAGE = Coverage()
Gauge(
    "vireo_coverage_videos",
    "Distinct videos that this gateway put into slates within the last 50 to 60 minutes, to 2%.",
).set_function(_COVERAGE.estimate)


def count_slate(query: RecommendQuery, slate: pb.RecommendResponse) -> None:
    """Count a slate that a viewer is shown, and its videos."""
    items = slate.items
    _SLATES_OF[query.seed_key is not None, bool(slate.degradations)].inc()
    _VIDEOS.inc(len(items))
    sources = (item.sources[:] or [viewer_pb2.SOURCE_UNSPECIFIED] for item in items)
    for source, count in Tally(chain.from_iterable(sources)).items():
        _VIDEOS_OF[source].inc(count)
    for degradation in slate.degradations:
        DEGRADATIONS.labels(kind_of(degradation)).inc()
    _COVERAGE.add([video_key(item.video_id) for item in items])


def kind_of(degradation: viewer_pb2.Degradation.ValueType) -> str:
    """Return the name of a degradation, for example "mixed_releases"."""
    return viewer_pb2.Degradation.Name(degradation).removeprefix("DEGRADATION_").lower()


for _degradation in viewer_pb2.Degradation.values():
    if _degradation:  # so that each is exported as 0 before it happens
        DEGRADATIONS.labels(kind_of(_degradation))
