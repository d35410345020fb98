"""Filters, sessions, pages and similar videos, as both clients send them."""

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
    NotFound,
    RequestProfile,
    SessionVideo,
    Slate,
    SlateItem,
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
