"""A filter holds in every slate, however it was made; one that can't be applied is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.builders.attributes import labels_of, numbers_of
from tests.builders.chain import AWAY, POPULAR, Chain
from tests.builders.filters import condition, expression, message
from tests.builders.refusals import failure_of, violations_of
from tests.builders.relay import Relay, relaying
from tests.builders.releases import CREATORS, video_ids
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.v1 import filter_pb2
from vireo.v1 import recommendation_pb2 as pb

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

GERMAN = message(condition("language", any_of=["de"]))
SHORT_OR_CATS = message(
    any=[
        message(condition("duration", max=300)),
        message(condition("tag", all_of=["cat"]), condition("creator", none_of=["creator-0"])),
    ],
    none=[message(condition("age_rating", min=16))],
)
NOTHING = message(condition("language", any_of=["la"]))


def meeting(asked: filter_pb2.Filter) -> set[str]:
    """The videos that a filter holds for."""
    holds = expression(*asked.conditions, any=asked.any, none=asked.none).holds
    return {
        name
        for row, name in enumerate(video_ids(40))
        if holds(labels_of(row, CREATORS), numbers_of(row))
    }


def allowed(asked: filter_pb2.Filter) -> set[str]:
    """Those of them that the viewer hasn't watched."""
    return meeting(asked) - set(WATCHED)


def request(asked: filter_pb2.Filter, **fields: Any) -> pb.RecommendRequest:
    return pb.RecommendRequest(**{"viewer_id": VIEWER, "page_size": 40, "filter": asked, **fields})


def names(slate: pb.RecommendResponse | pb.SimilarVideosResponse) -> set[str]:
    return {item.video_id for item in slate.items}


@pytest.mark.parametrize("asked", [GERMAN, SHORT_OR_CATS])
@pytest.mark.parametrize(("away", "degradations"), AWAY)
async def test_a_filter_holds_in_whole_and_degraded_slates(
    chain: Chain, asked: filter_pb2.Filter, away: str, degradations: list[int]
) -> None:
    async with chain.gateway(away=away) as stub:
        slate = await stub.Recommend(request(asked, explain=True))
        similar = await stub.SimilarVideos(
            pb.SimilarVideosRequest(video_id="video-9", page_size=40, filter=asked)
        )
    assert list(slate.degradations) == degradations
    assert names(slate) == allowed(asked)
    assert names(similar) == meeting(asked) - {"video-9"}
    explained = slate.explanation
    assert explained.HasField("filter_share") == (away != "candidate")
    if away != "candidate":
        assert explained.filter_share == pytest.approx(len(meeting(asked)) / 40)


@pytest.mark.parametrize("away", ["", "candidate"])
async def test_a_filter_that_nothing_meets_gets_an_empty_slate(chain: Chain, away: str) -> None:
    batch = pb.BatchRecommendRequest(viewer_ids=[VIEWER], filter=NOTHING)
    async with chain.gateway(away=away) as stub:
        explained = await stub.Recommend(request(NOTHING, explain=True))
        plain = await stub.Recommend(request(NOTHING))
        similar = await stub.SimilarVideos(
            pb.SimilarVideosRequest(video_id="video-9", filter=NOTHING)
        )
        batched = [] if away else [each.slate async for each in stub.BatchRecommend(batch)]
    assert explained.explanation.filter_share == 0
    slates: list[pb.RecommendResponse | pb.SimilarVideosResponse]
    slates = [explained, plain, similar, *batched]
    for slate in slates:
        assert not slate.items
        assert slate.filter_unmet
        assert list(slate.degradations) == (POPULAR if away else [])


@pytest.mark.parametrize("away", ["", "candidate"])
async def test_a_slate_is_not_said_to_be_unmet_if_videos_meet_the_filter(
    chain: Chain, away: str
) -> None:
    seen = sorted(allowed(GERMAN))
    async with chain.gateway(away=away) as stub:
        some = await stub.Recommend(request(GERMAN))
        excluded = await stub.Recommend(request(GERMAN, excluded_video_ids=seen))
        unfiltered = await stub.Recommend(
            pb.RecommendRequest(viewer_id=VIEWER, excluded_video_ids=video_ids(40))
        )
    assert some.items
    assert not excluded.items
    assert not unfiltered.items
    assert not any(slate.filter_unmet for slate in (some, excluded, unfiltered))


async def test_a_pod_that_does_not_or_can_not_apply_the_filter_gives_way_to_the_popular_list(
    chain: Chain,
) -> None:
    relay = Relay(chain.candidate, change=lambda answer: answer.ClearField("filtered"))
    async with relaying(relay) as candidate, chain.gateway(candidate) as stub:
        slate = await stub.Recommend(request(GERMAN))
        unfiltered = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER))
        relay.code = grpc.StatusCode.INVALID_ARGUMENT
        refused = await stub.Recommend(request(GERMAN))
    assert list(slate.degradations) == list(refused.degradations) == POPULAR
    assert names(slate) == names(refused) == allowed(GERMAN)
    assert len(relay.requests) == 4, "another pod might have applied it"
    assert relay.requests[0].filter == GERMAN
    assert not unfiltered.degradations


async def test_the_popular_list_leaves_out_what_changed_if_there_is_a_filter(
    chain: Chain, changed: set[str]
) -> None:
    changed |= {"video-5", "video-8"}
    async with chain.gateway(away="candidate") as stub:
        filtered = await stub.Recommend(request(GERMAN))
        all_of_them = await stub.Recommend(pb.RecommendRequest(viewer_id=VIEWER, page_size=40))
    assert names(filtered) == allowed(GERMAN) - changed
    assert names(all_of_them) == set(video_ids(40)) - set(WATCHED)


@pytest.mark.parametrize(
    ("asked", "field", "reason"),
    [
        (message(), "filter", "must have a condition"),
        (message(condition("mood", any_of=["sad"])), "filter.conditions[0].attribute", "'mood'"),
        (
            message(*(condition("tag", any_of=["a"]) for _ in range(65))),
            "filter.conditions",
            "no more than 64",
        ),
        (message(condition("duration", min=float("nan"))), "filter.conditions[0].min", "finite"),
    ],
)
async def test_a_bad_filter_is_refused_by_the_name_of_its_field(
    whole: RecommendationServiceAsyncStub, asked: filter_pb2.Filter, field: str, reason: str
) -> None:
    similar = pb.SimilarVideosRequest(video_id="video-9", filter=asked)
    for call in (whole.Recommend(request(asked)), whole.SimilarVideos(similar)):
        error = await failure_of(call)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert reason in violations_of(error)[field]
