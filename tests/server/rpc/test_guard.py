"""What every call gets from the guard: errors by field, ids, log lines and sizes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog

from tests.builders.columns import rank_request
from tests.builders.refusals import failure_of, refusal, retry_seconds, status_of, violations_of
from tests.builders.releases import build_release, poison_model
from tests.builders.rpc import rpc_settings, serving
from vireo.server.ranking.service import RANKING_POD
from vireo.server.recommend.ranking.pipeline import RankingPipeline
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.releases import layout
from vireo.v1 import ranking_pb2, release_pb2
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

METHOD = "/vireo.v1.RankingService/RankCandidates"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
Request = ranking_pb2.RankCandidatesRequest


@pytest.fixture
async def channel(release_folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(RANKING_POD, release_folder) as (_, channel):
        yield channel


def several(request: Request) -> None:
    request.page_size = 501
    request.viewer.attributes.extend(["fine", "x" * 257])
    request.viewer.watch_count = -1


@pytest.mark.parametrize(
    ("change", "violations"),
    [
        (
            several,
            {
                "page_size": "must be greater than or equal to 1 and less than or equal to 500",
                "viewer.attributes[1]": "must be at most 256 bytes",
                "viewer.watch_count": "must be greater than or equal to 0",
            },
        ),
        (
            lambda request: request.viewer.attributes.extend(["x" * 257] * 10_000),
            {"viewer.attributes": "must contain no more than 64 item(s)"},
        ),
        (
            lambda request: request.scores[1].values.extend([0.0] * 2000),
            {"scores[1].values": "must contain no more than 2000 item(s)"},
        ),
    ],
)
async def test_every_violation_is_listed_by_field(
    channel: grpc.aio.Channel, change: Callable[[Request], Any], violations: dict[str, str]
) -> None:
    request = rank_request(1, 2)
    change(request)
    error = await failure_of(RankingServiceStub(channel).RankCandidates(request))
    assert error.code() is INVALID
    assert violations_of(error) == violations
    assert all(f"{field}: {text}" in (error.details() or "") for field, text in violations.items())
    assert status_of(error).code == INVALID.value[0]


async def test_a_call_returns_its_callers_request_id_or_one_of_its_own(
    channel: grpc.aio.Channel,
) -> None:
    rank = RankingServiceStub(channel).RankCandidates
    metadata = (("x-request-id", "caller-7"),)
    call = rank(rank_request(1), metadata=metadata)
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "caller-7"
    error = await failure_of(rank(rank_request(), metadata=metadata))
    assert dict(error.trailing_metadata() or ())["x-request-id"] == "caller-7"
    calls = [rank(rank_request(1)) for _ in range(2)]
    assert len({dict(await each.trailing_metadata())["x-request-id"] for each in calls}) == 2


async def test_unforeseen_failure_is_internal_and_logged_with_its_stack(tmp_path: Path) -> None:
    folder = build_release(tmp_path)
    poison_model(folder, layout.RANKER, "video")
    # Built without its goldens, which would refuse it.
    pod = replace(RANKING_POD, build=lambda path: RankingPipeline(RankingRelease.load(path)))
    metadata = (("x-request-id", "boom"),)
    async with serving(pod, folder) as (_, channel):
        with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
            failed = await refusal(
                RankingServiceStub(channel).RankCandidates(rank_request(1), metadata=metadata)
            )
    assert failed == (
        grpc.StatusCode.INTERNAL,
        "internal error; the server's log has it under request id boom",
    )
    [line] = [line for line in logs if line["event"] == "call failed"]
    assert (line["request_id"], line["method"], line["exc_info"]) == ("boom", METHOD, True)


async def test_pod_that_is_loading_is_unavailable_and_says_why() -> None:
    async with serving(RANKING_POD, None) as (_, channel):
        error = await failure_of(RankingServiceStub(channel).RankCandidates(rank_request(1)))
        state = await ReleaseServiceStub(channel).GetServingRelease(
            release_pb2.GetServingReleaseRequest()
        )
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "no release is loaded yet" in (error.details() or "")
    assert retry_seconds(error) == 1
    assert state.state == release_pb2.RELEASE_STATE_LOADING
    assert (state.release_id, state.pod) == ("", "test-pod")


@pytest.mark.parametrize(("share", "lines"), [(0.0, 0), (1.0, 2)])
async def test_access_log_has_the_share_of_calls_that_was_asked_for(
    release_folder: Path, share: float, lines: int
) -> None:
    settings = rpc_settings(access_log_share=share)
    with structlog.testing.capture_logs() as logs:
        async with serving(RANKING_POD, release_folder, settings=settings) as (_, channel):
            await RankingServiceStub(channel).RankCandidates(rank_request(1))
            await failure_of(RankingServiceStub(channel).RankCandidates(rank_request()))
    # The server has ended, and so have its calls.
    calls = [line["code"] for line in logs if line["event"] == "call"]
    assert calls == ["OK", "INVALID_ARGUMENT"][:lines]
