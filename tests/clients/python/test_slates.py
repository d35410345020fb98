"""What a client sends, and the slate that it makes of the answer."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.builders.fake_stack import asked
from tests.clients.python.conftest import Recommend
from vireo.v1 import filter_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo_client import (
    Condition,
    Degradation,
    Explanation,
    Filter,
    InvalidRequest,
    ProfileUse,
    RequestProfile,
    SessionAction,
    SessionVideo,
    Slate,
    SlateItem,
    Source,
    SourceReport,
    Surface,
    TaskScores,
    WatchedVideo,
    __version__,
)
from vireo_client.testing import FakeStack

CALM = Filter(
    conditions=[Condition("duration", min=60, max=600), Condition("tag", all_of=["a", "b"])],
    any=[Filter([Condition("language", any_of=[each])]) for each in ("de", "fr")],
    none=[Filter([Condition("creator", none_of=["c"])])],
)
WATCHED_AT = datetime(2024, 5, 1, 12, tzinfo=UTC)
FULL = pb.RecommendResponse(
    items=[
        pb.SlateItem(
            video_id="é",
            score=0.5,
            position=1,
            task_scores=pb.TaskScores(watch=0.25, like=0.75),
            sources=[viewer_pb2.SOURCE_TWO_TOWER, viewer_pb2.SOURCE_EASE],
            title="A title",
        ),
        pb.SlateItem(video_id="w", score=0.25, position=2),
    ],
    request_id="id",
    release_id="release-1",
    degradations=[viewer_pb2.DEGRADATION_SOURCE_MISSING],
    explanation=pb.Explanation(
        sources=[
            pb.SourceReport(source=viewer_pb2.SOURCE_EASE, proposed=3),
            pb.SourceReport(source=viewer_pb2.SOURCE_FRESH, failure="why"),
        ],
        candidates=300,
        history_length=7,
    ),
)
FULL.explanation.ranking_time.FromMicroseconds(1500)


async def test_every_argument_becomes_a_field(stack: FakeStack, recommend: Recommend) -> None:
    await recommend(
        "a/b é",
        page_size=7,
        surface=Surface.UP_NEXT,
        seed_video_id="s",
        excluded_video_ids=(each for each in ("x", "y")),
        device="tv",
        locale="de-CH",
        time=datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))),
        time_zone="Europe/Zurich",
        region="CH",
        profile=RequestProfile(
            history=(WatchedVideo(each, time) for each, time in (("w", WATCHED_AT), ("x", None))),
            attributes=["plan=free"],
            use=ProfileUse.INSTEAD,
        ),
        filter=CALM,
        session=[SessionVideo("s"), SessionVideo("h", SessionAction.HOVERED)],
        page_token="token",
        explain=True,
    )
    [request] = asked(stack, pb.RecommendRequest)
    assert request == pb.RecommendRequest(
        profile=pb.RequestProfile(
            history=[
                pb.WatchedVideo(video_id="w", time=Timestamp(seconds=1714564800)),
                pb.WatchedVideo(video_id="x"),
            ],
            attributes=["plan=free"],
            use=pb.PROFILE_USE_INSTEAD,
        ),
        viewer_id="a/b é",
        page_size=7,
        surface=pb.SURFACE_UP_NEXT,
        seed_video_id="s",
        excluded_video_ids=["x", "y"],
        context=pb.RequestContext(
            device="tv",
            locale="de-CH",
            time=Timestamp(seconds=1714564800),
            time_zone="Europe/Zurich",
            region="CH",
        ),
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
        explain=True,
    )


def test_a_watch_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        WatchedVideo("a", datetime(2026, 1, 1))


async def test_omitted_arguments_use_the_servers_defaults(
    stack: FakeStack, recommend: Recommend
) -> None:
    await recommend("1")
    [request] = asked(stack, pb.RecommendRequest)
    assert request == pb.RecommendRequest(viewer_id="1", surface=pb.SURFACE_HOME)


async def test_an_answer_becomes_a_slate(stack: FakeStack, recommend: Recommend) -> None:
    stack.answer(FULL)
    assert await recommend("1") == Slate(
        items=(
            SlateItem(
                video_id="é",
                score=0.5,
                position=1,
                task_scores=TaskScores(watch=0.25, like=0.75),
                sources=(Source.TWO_TOWER, Source.EASE),
                title="A title",
            ),
            SlateItem("w", 0.25, 2, task_scores=None, sources=(), title=""),
        ),
        request_id="id",
        release_id="release-1",
        degradations=(Degradation.SOURCE_MISSING,),
        explanation=Explanation(
            features_time=timedelta(),
            retrieval_time=timedelta(),
            ranking_time=timedelta(milliseconds=1.5),
            sources=(SourceReport(Source.EASE, 3, ""), SourceReport(Source.FRESH, 0, "why")),
            candidates=300,
            history_length=7,
        ),
    )


async def test_a_slate_can_be_kept_as_it_is(recommend: Recommend) -> None:
    slate = await recommend("1")
    assert slate.explanation is None
    assert hash(slate) == hash(dataclasses.replace(slate))
    with pytest.raises(dataclasses.FrozenInstanceError):
        slate.release_id = "another"  # type: ignore[misc]


async def test_unknown_values_of_a_newer_server_are_no_error(
    stack: FakeStack, recommend: Recommend
) -> None:
    newer = pb.RecommendResponse()
    newer.ParseFromString(
        pb.RecommendResponse(items=[pb.SlateItem(sources=[1, 30])]).SerializeToString()  # type: ignore[list-item]
        + b"\x22\x02\x01\x63"  # degradations 1 and 99
        + b"\xaa\x06\x01x"  # and a field that is not known either
    )
    stack.answer(newer)
    slate = await recommend("1")
    assert slate.degradations == (Degradation.SOURCE_MISSING, Degradation.UNKNOWN)
    assert slate.items[0].sources == (Source.TWO_TOWER, Source.UNKNOWN)


async def test_each_value_of_the_protos_enums_has_a_name() -> None:
    for here, there, prefix in (
        (Source, viewer_pb2.Source, "SOURCE_"),
        (Degradation, viewer_pb2.Degradation, "DEGRADATION_"),
        (Surface, pb.Surface, "SURFACE_"),
    ):
        names = {name.removeprefix(prefix).lower() for name in there.keys()}  # noqa: SIM118
        assert {each.value for each in here} - {"unknown"} == names - {"unspecified"}, "make protos"


async def test_the_callers_request_id_and_headers_go_along(
    stack: FakeStack, recommend: Recommend
) -> None:
    await recommend("1", request_id="mine", metadata=[("traceparent", "00-ab-cd-01")])
    [metadata] = stack.metadata
    assert metadata["x-request-id"] == "mine"
    assert metadata["traceparent"] == "00-ab-cd-01"
    assert str(metadata["user-agent"]).startswith(f"vireo-client/{__version__} grpc-python")


async def test_each_call_gets_a_request_id_of_its_own(
    stack: FakeStack, recommend: Recommend
) -> None:
    for _ in range(3):
        await recommend("1")
    assert len({metadata["x-request-id"] for metadata in stack.metadata}) == 3


@pytest.mark.parametrize(
    "impossible",
    [{"page_size": 2**40}, {"viewer_id": "\ud800"}, {"surface": "sideways"}],
    ids=lambda each: str(*each),
)
async def test_a_request_that_no_message_can_hold_is_invalid_and_not_sent(
    stack: FakeStack, recommend: Recommend, impossible: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest):
        await recommend(**{"viewer_id": "1", **impossible})
    assert not stack.requests


async def test_a_time_without_zone_and_an_id_that_no_header_carries_are_refused(
    stack: FakeStack, recommend: Recommend
) -> None:
    with pytest.raises(ValueError, match="time zone"):
        await recommend("1", time=datetime(2024, 5, 1))
    with pytest.raises(ValueError, match="request id"):
        await recommend("1", request_id="ü")
    await recommend("1", time=datetime(2024, 5, 1, tzinfo=UTC))
    assert len(stack.requests) == 1
