"""Filters, sessions, pages, similar videos and explanations, as both clients send them."""

from __future__ import annotations

from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.builders.fake_stack import EXPLANATION, asked
from tests.clients.python.conftest import Connect, Recommend
from vireo.v1 import filter_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo_client import (
    Condition,
    Degradation,
    Filter,
    InvalidRequest,
    LostAt,
    NotFound,
    RequestProfile,
    SessionVideo,
    Slate,
    SlateItem,
    Source,
    SourceRank,
    Surface,
    TaskScores,
    VideoExplanation,
    WatchedVideo,
)
from vireo_client.testing import FakeStack


def page(name: str, token: str) -> pb.RecommendResponse:
    return pb.RecommendResponse(items=[pb.SlateItem(video_id=name)], next_page_token=token)


async def test_a_slate_says_how_many_videos_meet_the_filter_and_that_none_does(
    stack: FakeStack, recommend: Recommend
) -> None:
    stack.answer(
        pb.RecommendResponse(explanation=pb.Explanation(filter_share=0), filter_unmet=True),
        pb.RecommendResponse(explanation=pb.Explanation()),
    )
    slates = [await recommend("1", explain=True) for _ in range(2)]
    assert [each.explanation and each.explanation.filter_share for each in slates] == [0, None]
    assert [each.filter_unmet for each in slates] == [True, False]


async def test_pages_follow_the_tokens_with_the_same_request(
    stack: FakeStack, connect: Connect
) -> None:
    stack.answer(page("a", "one"), page("b", "two"), page("c", ""))
    profile = RequestProfile(history=(WatchedVideo(each) for each in "xy"))
    async with connect(stack.target) as client:
        slates = [
            slate
            async for slate in client.each(
                "pages",
                "1",
                page_size=1,
                excluded_video_ids=(each for each in "uv"),
                profile=profile,
                session=(SessionVideo(each) for each in "s"),
            )
        ]
    assert [slate.items[0].video_id for slate in slates] == ["a", "b", "c"]
    assert [slate.next_page_token for slate in slates] == ["one", "two", ""]
    assert [request.page_token for request in stack.requests] == ["", "one", "two"]
    for request in stack.requests:
        request.ClearField("page_token")
    assert stack.requests[0] == stack.requests[1] == stack.requests[2]
    assert list(stack.requests[0].excluded_video_ids) == ["u", "v"]
    assert len(stack.requests[0].profile.history) == 2


async def test_pages_continue_from_a_token_and_are_asked_for_one_by_one(
    stack: FakeStack, connect: Connect
) -> None:
    stack.answer(page("c", "more"))
    async with connect(stack.target) as client:
        async for _ in client.each("pages", "1", page_token="kept"):
            break
    assert [request.page_token for request in stack.requests] == ["kept"]


async def test_similar_videos_are_a_slate(stack: FakeStack, connect: Connect) -> None:
    at = datetime(2024, 5, 1, 12, tzinfo=UTC)
    german = Filter([Condition("language", any_of=["de"])])
    stack.answer(
        pb.SimilarVideosResponse(
            items=[pb.SlateItem(video_id="v", position=1)],
            request_id="id",
            release_id="r",
            degradations=[viewer_pb2.DEGRADATION_RANKING_SKIPPED],
        )
    )
    async with connect(stack.target) as client:
        slate = await client.call(
            "similar",
            "v",
            page_size=3,
            filter=german,
            excluded_video_ids=["x"],
            device="tv",
            locale="de",
            time=at,
            time_zone="+02:00",
            region="CH",
        )
        await client.call("similar", "w")
        stack.fail(grpc.StatusCode.NOT_FOUND)
        with pytest.raises(NotFound):
            await client.call("similar", "nowhere")
        with pytest.raises(InvalidRequest):
            await client.call("similar", "v", page_size=1 << 40)
    assert slate == Slate(
        items=(SlateItem("v", 0.0, 1, task_scores=None, sources=(), title=""),),
        request_id="id",
        release_id="r",
        degradations=(Degradation.RANKING_SKIPPED,),
        explanation=None,
    )
    first, second, _ = asked(stack, pb.SimilarVideosRequest)
    assert first == pb.SimilarVideosRequest(
        video_id="v",
        page_size=3,
        filter=filter_pb2.Filter(
            conditions=[filter_pb2.Condition(attribute="language", any_of=["de"])]
        ),
        excluded_video_ids=["x"],
        context=pb.RequestContext(
            device="tv",
            locale="de",
            time=Timestamp(seconds=1714564800),
            time_zone="+02:00",
            region="CH",
        ),
    )
    assert second == pb.SimilarVideosRequest(video_id="w")


EXPECTED = VideoExplanation(
    lost_at=LostAt.RETRIEVAL,
    reason="No source proposed it: two_tower ranked it 812th and proposed 450.",
    position=0,
    sources=(),
    source_ranks=(SourceRank(Source.TWO_TOWER, 812, 450),),
    retrieval_rank=0,
    candidates=450,
    retrieval_scores={"two_tower": 0.5},
    score=0.25,
    score_factor=1,
    task_scores=TaskScores(0.25, 0.5),
    task_weights={"watch": 1},
    ranking_features={"content_match": 0.125},
    features_age=None,
    request_id="id",
    release_id="r",
    degradations=(),
)


async def test_an_explanation_has_every_field(connect: Connect, stack: FakeStack) -> None:
    stack.answer(EXPLANATION)
    async with connect(stack.target) as client:
        told = await client.call(
            "explain_video",
            "w",
            "1",
            page_size=7,
            surface=Surface.UP_NEXT,
            seed_video_id="v",
            filter=Filter([Condition("tag", any_of=["a"])]),
            region="CH",
        )
        with pytest.raises(InvalidRequest):
            await client.call("explain_video", "w", "1", page_size=1 << 40)
    [request] = asked(stack, pb.ExplainVideoRequest)
    assert told == EXPECTED
    assert request.video_id == "w"
    assert request.request.viewer_id == "1"
    assert request.request.page_size == 7
    assert request.request.surface == pb.SURFACE_UP_NEXT
    assert request.request.seed_video_id == "v"
    assert request.request.context == pb.RequestContext(region="CH")
    assert request.request.filter.conditions[0].attribute == "tag"
