"""Filters, sessions, pages, similar videos and explanations, as both clients send them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.builders.gateway import FakeGateway
from tests.clients.python.conftest import Connect, Recommend
from vireo.v1 import filter_pb2
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


def page(name: str, token: str) -> pb.RecommendResponse:
    return pb.RecommendResponse(items=[pb.SlateItem(video_id=name)], next_page_token=token)


async def test_a_slate_says_how_many_videos_meet_the_filter_and_that_none_does(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [
        pb.RecommendResponse(explanation=pb.Explanation(filter_share=0), filter_unmet=True),
        pb.RecommendResponse(explanation=pb.Explanation()),
    ]
    slates = [await recommend("1", explain=True) for _ in range(2)]
    assert [each.explanation and each.explanation.filter_share for each in slates] == [0, None]
    assert [each.filter_unmet for each in slates] == [True, False]


async def test_pages_follow_the_tokens_with_the_same_request(
    gateway: FakeGateway, connect: Connect
) -> None:
    gateway.answers = [page("a", "one"), page("b", "two"), page("c", "")]
    profile = RequestProfile(history=(WatchedVideo(each) for each in "xy"))
    async with connect(gateway.address) as client:
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
    assert [request.page_token for request in gateway.requests] == ["", "one", "two"]
    for request in gateway.requests:
        request.ClearField("page_token")
    assert gateway.requests[0] == gateway.requests[1] == gateway.requests[2]
    assert list(gateway.requests[0].excluded_video_ids) == ["u", "v"]
    assert len(gateway.requests[0].profile.history) == 2


async def test_pages_continue_from_a_token_and_are_asked_for_one_by_one(
    gateway: FakeGateway, connect: Connect
) -> None:
    gateway.answers = [page("c", "more")]
    async with connect(gateway.address) as client:
        async for _ in client.each("pages", "1", page_token="kept"):
            break
    assert [request.page_token for request in gateway.requests] == ["kept"]


async def test_similar_videos_are_a_slate(gateway: FakeGateway, connect: Connect) -> None:
    at = datetime(2024, 5, 1, 12, tzinfo=UTC)
    german = Filter([Condition("language", any_of=["de"])])
    async with connect(gateway.address) as client:
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
    first, second, _ = gateway.similar
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


async def test_an_explanation_has_every_field(connect: Connect, gateway: FakeGateway) -> None:
    async with connect(gateway.address) as client:
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
    [asked] = gateway.explained
    assert told == EXPECTED
    assert asked.video_id == "w"
    assert asked.request.viewer_id == "1"
    assert asked.request.page_size == 7
    assert asked.request.surface == pb.SURFACE_UP_NEXT
    assert asked.request.seed_video_id == "v"
    assert asked.request.context == pb.RequestContext(region="CH")
    assert asked.request.filter.conditions[0].attribute == "tag"
