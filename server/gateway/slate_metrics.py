"""Prometheus metrics of the slates that viewers are shown, and of what they are made from."""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.candidate_pb2 import RetrieveCandidatesResponse
from vireo.v1.ranking_pb2 import RankCandidatesResponse

from server.gateway.coverage import Coverage
from server.gateway.query import RecommendQuery
from server.gateway.stages.answer import sources_of
from server.histogram import Histogram
from server.pipeline.stage_metrics import SECONDS

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
_KNOWN = sum(1 << number for number in viewer_pb2.Source.values() if number)
"""Bits of the sources that this build knows."""


class _SourceCounts(Collector):
    """Videos in slates by the sources that proposed them: counted by mask, added up by scrapes."""

    def __init__(self) -> None:
        self.by_mask: Counts[int] = Counts()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the family."""
        counts = dict.fromkeys(viewer_pb2.Source.values(), 0)
        for mask, count in [*self.by_mask.items()]:
            for number in sources_of(mask) or (viewer_pb2.SOURCE_UNSPECIFIED,):
                counts[number] += count
        family = CounterMetricFamily(
            "vireo_slate_videos",
            "Videos in slates, once for each candidate source that proposed them.",
            labels=["source"],
        )
        for number, count in counts.items():
            name = viewer_pb2.Source.Name(number).removeprefix("SOURCE_").lower()
            family.add_metric([name if number else "none"], count)
        yield family


_SOURCES = _SourceCounts()
REGISTRY.register(_SOURCES)
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
    _SLATES_OF[query.seed_key is not None, bool(slate.degradations)].inc()
    count = len(slate.items)
    _VIDEOS.inc(count)
    if made_from is not None and made_from.keys:
        _SOURCES.by_mask.update([mask & _KNOWN for mask in made_from.source_masks[:count]])
        _COVERAGE.add(made_from.keys[:count])
    elif count:
        _SOURCES.by_mask[0] += count


def time_stages(started: float, read: float, retrieved: float, ranked: float) -> None:
    """Observe the times of a slate's stages, which ended at these seconds; the answer ends now."""
    _FEATURES.observe(read - started)
    _RETRIEVAL.observe(retrieved - read)
    if ranked > retrieved:
        _RANKING.observe(ranked - retrieved)
    _ANSWER.observe(time.perf_counter() - ranked)
