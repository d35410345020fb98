"""What a gateway's metrics tell of the slates that it made, over real pods."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.builders.chain import Chain
from tests.builders.clock import Clock
from tests.builders.samples import Grown, sample
from tests.builders.tiny_home import VIEWER
from vireo.server.gateway.slate_metrics import Coverage
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import Source

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub


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
    assert sample("vireo_coverage_videos") >= 0


async def test_without_candidate_pods_slates_are_degraded_and_the_popular_list_is_counted_apart(
    chain: Chain, grown: Grown
) -> None:
    async with chain.gateway(away="candidate") as stub:
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


def keys(count: int, seed: int = 1) -> list[int]:
    source = random.Random(seed)
    return [source.getrandbits(64) - (1 << 63) for _ in range(count)]


def near(count: int) -> object:
    return pytest.approx(count, rel=0.06)  # four standard deviations


@pytest.mark.parametrize("count", [0, 1, 10, 3000, 100_000])
def test_the_estimate_is_near_the_number_of_distinct_videos(count: int) -> None:
    shown, coverage = keys(count), Coverage(Clock())
    for start in range(0, count, 10):
        coverage.add(shown[start : start + 10])
    coverage.add(shown[:5000])  # again
    assert coverage.estimate() == near(count)


def test_videos_of_more_than_an_hour_ago_do_not_count() -> None:
    clock = Clock()
    coverage = Coverage(clock)
    coverage.add(keys(3000, seed=1))
    clock.now += 1800
    coverage.add(keys(1000, seed=2))
    assert coverage.estimate() == near(4000)
    clock.now += 1801
    assert coverage.estimate() == near(1000)
    clock.now += 100_000
    assert coverage.estimate() == 0
    coverage.add(keys(1000))
    assert coverage.estimate() == near(1000)
