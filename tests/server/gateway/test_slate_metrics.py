"""What a gateway's metrics tell of the slates that it made, over real pods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from tests.builders.chain import NOWHERE, Chain
from tests.builders.tiny_home import VIEWER
from vireo.server.gateway.slate_metrics import Coverage
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import Source

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
Grown = Callable[..., float]


def samples() -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
    }


@pytest.fixture
def grown() -> Grown:
    """Returns by how much a sample has grown since the test began."""
    before = samples()

    def difference(name: str, **labels: str) -> float:
        key = name, tuple(sorted(labels.items()))
        return samples().get(key, 0.0) - before.get(key, 0.0)

    return difference


def timed(grown: Grown) -> list[str]:
    """The stages of which a time was observed, once each."""
    stages = ["features", "retrieval", "ranking", "answer"]
    counts = {
        stage: grown("vireo_stage_seconds_count", service="gateway", stage=stage)
        for stage in stages
    }
    assert set(counts.values()) <= {0, 1}
    return [stage for stage in stages if counts[stage]]


async def test_a_slate_its_videos_and_its_stages_are_counted(
    whole: RecommendationServiceAsyncStub, grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Coverage()  # without what other tests have shown
    monkeypatch.setattr("vireo.server.gateway.slate_metrics._COVERAGE", shown)
    slate = await whole.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=7))
    assert grown("vireo_slates_total", surface="home", degraded="no") == 1
    assert grown("vireo_videos_shown_total") == 7
    named = Counter(Source.Name(each) for item in slate.items for each in item.sources)
    for source in Source.keys()[1:]:
        name = source.removeprefix("SOURCE_").lower()
        assert grown("vireo_slate_videos_total", source=name) == named[source]
    assert timed(grown) == ["features", "retrieval", "ranking", "answer"]
    assert grown("vireo_online_store_seconds_count", outcome="ok") == 1
    assert grown("vireo_feature_age_seconds_count") == 1
    assert shown.estimate() == pytest.approx(7, rel=0.2)
    assert REGISTRY.get_sample_value("vireo_coverage_videos") is not None


async def test_without_candidate_pods_slates_are_degraded_and_the_popular_list_is_counted_apart(
    chain: Chain, grown: Grown
) -> None:
    async with chain.gateway(NOWHERE) as stub:
        await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=5))
    assert grown("vireo_slates_total", surface="home", degraded="yes") == 1
    assert grown("vireo_slate_videos_total", source="none") == 5
    failed = {"service": "gateway", "stage": "retrieval", "reason": "unavailable"}
    assert grown("vireo_stage_failures_total", **failed) == 1
    assert grown("vireo_degradations_total", kind="popular_fallback") == 1
    assert grown("vireo_degradations_total", kind="mixed_releases") == 0
    assert timed(grown) == ["features", "retrieval", "answer"]


async def test_explaining_a_slate_shows_it_to_nobody(
    whole: RecommendationServiceAsyncStub, grown: Grown
) -> None:
    asked = pb.RecommendRequest(viewer_id=VIEWER)
    await whole.ExplainVideo(pb.ExplainVideoRequest(request=asked, video_id="video-5"))
    batch = pb.BatchRecommendRequest(viewer_ids=[VIEWER])
    assert [answer async for answer in whole.BatchRecommend(batch)]
    assert grown("vireo_videos_shown_total") == 0
    assert timed(grown) == []
    await whole.SimilarVideos(pb.SimilarVideosRequest(video_id="video-3"))
    assert grown("vireo_slates_total", surface="up_next", degraded="no") == 1
    assert grown("vireo_slates_total", surface="home", degraded="no") == 0
