"""Health, reflection and channelz: bytes that are no request, and calls that say nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.builders.releases import build_release
from tests.builders.rpc import serving
from tests.builders.waiting import until
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.rpc.caller import CALLER

NO_MESSAGE = b"\xff\xff"
METHODS = (
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.channelz.v1.Channelz/GetServers",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
OURS = ("vireo.v1.CandidateService/RetrieveCandidates", "vireo.v1.ReleaseService/GetServingRelease")


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(CANDIDATE_POD, build_release(tmp_path)) as (_, channel):
        yield channel


async def ended(channel: grpc.aio.Channel, method: str, *messages: bytes) -> grpc.StatusCode:
    """The status of a call that says these things and no more."""
    ask: Any = channel.stream_stream(f"/{method}")
    code: grpc.StatusCode = await ask(iter(messages), timeout=30).code()
    return code


@pytest.mark.parametrize("method", [*METHODS, *OURS])
async def test_bytes_that_are_no_message_are_invalid(
    channel: grpc.aio.Channel, method: str
) -> None:
    assert await ended(channel, method, NO_MESSAGE) == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", [*METHODS[:3], *OURS])
async def test_a_call_that_says_nothing_is_invalid_and_not_left_open(
    channel: grpc.aio.Channel, method: str
) -> None:
    assert await ended(channel, method) == grpc.StatusCode.INVALID_ARGUMENT


async def test_health_and_channelz_still_answer(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
    service = "vireo.v1.CandidateService"
    answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(service="none such"), timeout=30)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await health.Check(health_pb2.HealthCheckRequest(service="none such"), timeout=30)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    channelz = channelz_pb2_grpc.ChannelzStub(channel)  # type: ignore[no-untyped-call]
    servers = await channelz.GetServers(channelz_pb2.GetServersRequest(), timeout=30)
    # Of a process's servers those of earlier tests may still be among them.
    assert max(server.data.calls_started for server in servers.server) >= 1


async def test_messages_of_reflection_wait_for_their_callers_turn(tmp_path: Path) -> None:
    asked = reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
    async with serving(CANDIDATE_POD, build_release(tmp_path)) as (server, channel):
        budget = server.budget
        budget._used["page"] = 1e6, budget._clock()
        budget._rested_at = budget._clock() + 1e9
        budget.light("another")
        ask: Any = channel.stream_stream(f"/{METHODS[-1]}")
        call = ask(iter([asked]), timeout=30, metadata=((CALLER, "page"),))
        await until(lambda: budget.waiting == 1)
        # The other one is silent from now on.
        assert b"CandidateService" in await call.read()
        assert budget.used("page") > 5
