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
    SessionAction,
    SessionVideo,
    Slate,
    SlateItem,
    WatchedVideo,
)

CALM = Filter(
    conditions=[Condition("duration", min=60, max=600), Condition("tag", all_of=["a", "b"])],
    any=[Filter([Condition("language", any_of=[each])]) for each in ("de", "fr")],
    none=[Filter([Condition("creator", none_of=["c"])])],
)


def page(name: str, token: str) -> pb.RecommendResponse:
    return pb.RecommendResponse(items=[pb.SlateItem(video_id=name)], next_page_token=token)


async def test_a_filter_and_a_session_become_messages(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    session = [SessionVideo("s"), SessionVideo("h", SessionAction.HOVERED)]
    await recommend("1", filter=CALM, session=session, page_token="token")
    [request] = gateway.requests
    assert request == pb.RecommendRequest(
        viewer_id="1",
        surface=pb.SURFACE_HOME,
        filter=filter_pb2.Filter(
            conditions=[
                filter_pb2.Condition(attribute="duration", min=60, max=600),
                filter_pb2.Condition(attribute="tag", all_of=["a", "b"]),
            ],
            any=[
                filter_pb2.Filter(
                    conditions=[filter_pb2.Condition(attribute="language", any_of=[each])]
                )
                for each in ("de", "fr")
            ],
            none=[
                filter_pb2.Filter(
                    conditions=[filter_pb2.Condition(attribute="creator", none_of=["c"])]
                )
            ],
        ),
        session=[
            pb.SessionVideo(video_id="s", action=pb.SESSION_ACTION_OPENED),
            pb.SessionVideo(video_id="h", action=pb.SESSION_ACTION_HOVERED),
        ],
        page_token="token",
    )


async def test_an_explanation_says_how_many_videos_meet_the_filter(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [
        pb.RecommendResponse(explanation=pb.Explanation(filter_share=0)),
        pb.RecommendResponse(explanation=pb.Explanation()),
    ]
    shares = [(await recommend("1", explain=True)).explanation for _ in range(2)]
    assert [each and each.filter_share for each in shares] == [0, None]


async def test_a_slate_says_that_no_video_meets_the_filter(
    gateway: FakeGateway, recommend: Recommend
) -> None:
    gateway.answers = [pb.RecommendResponse(filter_unmet=True), pb.RecommendResponse()]
    assert [(await recommend("1")).filter_unmet for _ in range(2)] == [True, False]


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
