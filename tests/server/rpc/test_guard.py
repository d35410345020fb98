from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2

from tests.builders.columns import score_columns
from tests.builders.releases import build_release, poison_model
from tests.builders.rpc import rpc_settings, serving
from vireo.server.features.keys import video_key
from vireo.server.ranking.pipeline import RankingPipeline
from vireo.server.ranking.release import RankingRelease
from vireo.server.ranking.service import RANKING_POD
from vireo.server.releases import layout
from vireo.v1 import ranking_pb2, release_pb2
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2_grpc import ReleaseServiceStub
from vireo.v1.viewer_pb2 import ViewerFeatures

METHOD = "/vireo.v1.RankingService/RankCandidates"


@pytest.fixture
async def channel(release_folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(RANKING_POD, release_folder) as (_, channel):
        yield channel


def request(*rows: int, **changes: object) -> ranking_pb2.RankCandidatesRequest:
    """A valid request for the videos of some rows, with fields changed."""
    count = len(rows)
    made = ranking_pb2.RankCandidatesRequest(
        viewer=ViewerFeatures(watch_count=0),
        keys=[video_key(f"video-{row}") for row in rows],
        scores=score_columns([0.5] * count),
        source_masks=[2] * count,
        page_size=10,
    )
    made.MergeFrom(ranking_pb2.RankCandidatesRequest(**changes))  # type: ignore[arg-type]
    return made


async def failure_of(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def raw(channel: grpc.aio.Channel, content: bytes) -> grpc.aio.UnaryUnaryCall[Any, Any]:
    """A call of the method with any bytes as its request."""
    method: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(METHOD)
    return method(content)


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    return status_pb2.Status.FromString(details)


def violations_of(error: grpc.aio.AioRpcError) -> dict[str, str]:
    bad = error_details_pb2.BadRequest()
    [detail] = status_of(error).details
    assert detail.Unpack(bad)
    return {violation.field: violation.description for violation in bad.field_violations}


async def test_every_violation_is_listed_by_field(channel: grpc.aio.Channel) -> None:
    asked = request(1, 2)
    asked.page_size = 501
    asked.viewer.attributes.extend(["fine", "x" * 257])
    asked.viewer.watch_count = -1
    error = await failure_of(RankingServiceStub(channel).RankCandidates(asked))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations_of(error) == {
        "page_size": "must be greater than or equal to 1 and less than or equal to 500",
        "viewer.attributes[1]": "must be at most 256 bytes",
        "viewer.watch_count": "must be greater than or equal to 0",
    }
    assert "page_size: must be" in (error.details() or "")
    assert status_of(error).code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_more_violations_than_trailers_may_hold_are_counted(
    channel: grpc.aio.Channel,
) -> None:
    asked = request(1)
    asked.viewer.attributes.extend(["x" * 257] * 64)
    error = await failure_of(RankingServiceStub(channel).RankCandidates(asked))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = violations_of(error)
    assert len(violations) == 20
    assert "viewer.attributes[0]" in violations
    assert "and 59 more" in (error.details() or "")


async def test_an_overlong_list_is_refused_without_a_look_at_its_items(
    channel: grpc.aio.Channel,
) -> None:
    asked = request(1, page_size=501)
    asked.viewer.attributes.extend(["x" * 257] * 10_000)
    error = await failure_of(RankingServiceStub(channel).RankCandidates(asked))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations_of(error) == {"viewer.attributes": "must contain no more than 64 item(s)"}


async def test_bytes_that_are_no_message_are_invalid(channel: grpc.aio.Channel) -> None:
    error = await failure_of(raw(channel, b"\xff\xff\xff\xff not a message"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request can't be parsed" in (error.details() or "")


async def test_empty_message_names_the_missing_fields(channel: grpc.aio.Channel) -> None:
    error = await failure_of(raw(channel, b""))
    assert set(violations_of(error)) == {"viewer", "keys", "page_size"}


async def test_a_score_that_breaks_the_contract_is_named(channel: grpc.aio.Channel) -> None:
    asked = request(1, 2)
    asked.scores[2].values[0] = float("inf")
    error = await failure_of(RankingServiceStub(channel).RankCandidates(asked))
    assert violations_of(error)["scores"].startswith("ease has a value that isn't finite")
    asked.scores[2].name, asked.scores[2].values[0] = "mood", 0
    error = await failure_of(RankingServiceStub(channel).RankCandidates(asked))
    assert violations_of(error) == {"scores": "'mood' is none of two_tower, co_watch, ease"}
    del asked.scores[:]
    error = await failure_of(RankingServiceStub(channel).RankCandidates(asked))
    assert violations_of(error) == {"scores": "two_tower is missing"}


async def test_a_column_that_is_too_long_is_refused_as_such(channel: grpc.aio.Channel) -> None:
    asked = request(1, page_size=0)
    asked.scores[1].values.extend([0.0] * 2000)
    error = await failure_of(RankingServiceStub(channel).RankCandidates(asked))
    assert violations_of(error) == {"scores[1].values": "must contain no more than 2000 item(s)"}


async def test_the_callers_request_id_is_returned(channel: grpc.aio.Channel) -> None:
    metadata = (("x-request-id", "caller-7"),)
    call = RankingServiceStub(channel).RankCandidates(request(1), metadata=metadata)
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "caller-7"
    error = await failure_of(
        RankingServiceStub(channel).RankCandidates(request(), metadata=metadata)
    )
    assert dict(error.trailing_metadata() or ())["x-request-id"] == "caller-7"


async def test_calls_without_a_request_id_each_get_one(channel: grpc.aio.Channel) -> None:
    ids = set()
    for _ in range(2):
        call = RankingServiceStub(channel).RankCandidates(request(1))
        await call
        ids.add(dict(await call.trailing_metadata())["x-request-id"])
    assert len(ids) == 2


async def test_unforeseen_failure_is_internal_and_logged_with_its_stack(tmp_path: Path) -> None:
    folder = build_release(tmp_path)
    poison_model(folder, layout.RANKER, "video")
    # Built without its goldens, which would refuse it.
    pod = replace(RANKING_POD, build=lambda path: RankingPipeline(RankingRelease.load(path)))
    metadata = (("x-request-id", "boom"),)
    async with serving(pod, folder) as (_, channel):
        with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
            call = RankingServiceStub(channel).RankCandidates(request(1), metadata=metadata)
            error = await failure_of(call)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "internal error; the server's log has it under request id boom"
    [line] = [line for line in logs if line["event"] == "call failed"]
    assert (line["request_id"], line["method"], line["exc_info"]) == ("boom", METHOD, True)


async def test_pod_that_is_loading_is_unavailable_and_says_why() -> None:
    async with serving(RANKING_POD, None) as (_, channel):
        error = await failure_of(RankingServiceStub(channel).RankCandidates(request(1)))
        state = await ReleaseServiceStub(channel).GetServingRelease(
            release_pb2.GetServingReleaseRequest()
        )
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "no release is loaded yet" in (error.details() or "")
    assert status_of(error).details[0].Unpack(error_details_pb2.RetryInfo())
    assert state.state == release_pb2.RELEASE_STATE_LOADING
    assert (state.release_id, state.pod) == ("", "test-pod")


async def test_access_log_has_the_share_of_calls_that_was_asked_for(release_folder: Path) -> None:
    for share, lines in ((0.0, 0), (1.0, 2)):
        settings = rpc_settings(access_log_share=share)
        with structlog.testing.capture_logs() as logs:
            async with serving(RANKING_POD, release_folder, settings=settings) as (_, channel):
                await RankingServiceStub(channel).RankCandidates(request(1))
                await failure_of(RankingServiceStub(channel).RankCandidates(request()))
        # The server has ended, and so have its calls.
        calls = [line for line in logs if line["event"] == "call"]
        assert [line["code"] for line in calls] == ["OK", "INVALID_ARGUMENT"][:lines]


async def test_request_beyond_the_size_limit_is_refused(release_folder: Path) -> None:
    settings = rpc_settings(max_message_bytes=2048)
    async with serving(RANKING_POD, release_folder, settings=settings) as (_, channel):
        error = await failure_of(RankingServiceStub(channel).RankCandidates(request(*range(200))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
