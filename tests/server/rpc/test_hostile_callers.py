"""Callers that stay silent, leave, don't read or send odd bytes: nobody else notices."""

from __future__ import annotations

import asyncio
import gzip
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.builders.busy import busy
from tests.builders.columns import request_for_one_video
from tests.builders.http2 import grpc_frame, http2
from tests.builders.releases import build_release
from tests.builders.rpc import rpc_settings, serving
from tests.builders.waiting import until
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking.service import RANKING_POD
from vireo.server.rpc import guard, standard
from vireo.server.rpc.caller import CALLER
from vireo.server.rpc.reading import decompressed
from vireo.v1.ranking_pb2_grpc import RankingServiceStub

METHOD = "/vireo.v1.RankingService/RankCandidates"
WATCH = "/grpc.health.v1.Health/Watch"


async def code_of(call: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = await call.code()
    return code


async def test_silent_calls_dont_block_others(release_folder: Path) -> None:
    async with serving(RANKING_POD, release_folder, max_calls=3) as (server, channel):
        method: Any = channel.stream_unary(METHOD)
        silent = [method(timeout=60) for _ in range(30)]
        await until(lambda: server.guard.under_way == len(silent))
        answers = [
            await RankingServiceStub(channel).RankCandidates(request_for_one_video())
            for _ in range(5)
        ]
        assert all(answer.ids for answer in answers)
        codes = {await code_of(call) for call in silent}
        assert codes == {grpc.StatusCode.INVALID_ARGUMENT}, "long before their deadline"
        await until(lambda: server.guard.under_way == 0)


async def test_calls_beyond_the_servers_number_are_refused_and_health_checks_never(
    release_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_RPCS", 1)
    queue = RunQueue()
    async with serving(RANKING_POD, release_folder, queue=queue) as (_, channel):
        stub = RankingServiceStub(channel)
        async with busy(queue):
            under_way = stub.RankCandidates(request_for_one_video())
            await until(lambda: queue.queued == 2)
            refused = await code_of(stub.RankCandidates(request_for_one_video()))
            health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert (await under_way).ids
    assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_watches_are_bounded_and_dont_count_against_calls(
    release_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard, "MAX_STREAMS", 5)
    monkeypatch.setattr(guard, "MAX_RPCS", 5)
    async with serving(RANKING_POD, release_folder) as (server, channel):
        health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(5)]
        for watch in watches:
            await watch.read()
        assert await code_of(health.Watch(health_pb2.HealthCheckRequest())) is (
            grpc.StatusCode.RESOURCE_EXHAUSTED
        )
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert (await RankingServiceStub(channel).RankCandidates(request_for_one_video())).ids
        for watch in watches:
            watch.cancel()
        await until(lambda: server.guard.standard_streams.taken == 0)
        again = health.Watch(health_pb2.HealthCheckRequest())
        assert (await again.read()).status == health_pb2.HealthCheckResponse.SERVING
        again.cancel()


async def test_a_stream_ends_well_when_its_time_is_over(
    release_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard, "MAX_STREAM_SECONDS", 0.1)
    async with serving(RANKING_POD, release_folder) as (server, channel):
        health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        # Were it UNAVAILABLE, Envoy would take the pod for one that fails.
        assert await code_of(watch) is grpc.StatusCode.OK
        await until(lambda: server.guard.standard_streams.taken == 0)


async def test_a_watcher_that_does_not_read_keeps_no_server_from_saying_that_it_stops(
    release_folder: Path,
) -> None:
    async with (
        serving(RANKING_POD, release_folder) as (server, channel),
        http2(f"127.0.0.1:{server.port}") as connection,
    ):
        connection.take_nothing()
        connection.open(WATCH, grpc_frame(b""))
        await until(lambda: server.guard.standard_streams.taken == 1)
        async with asyncio.timeout(30):
            await server.set_serving(False)
        health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("value", ["caf\u00e9", "a\tb", "\x01", "a" * 129])
async def test_a_request_id_that_cant_be_sent_on_is_replaced(
    release_folder: Path, value: str
) -> None:
    async with serving(RANKING_POD, release_folder) as (server, _):
        body = grpc_frame(request_for_one_video().SerializeToString())
        async with http2(f"127.0.0.1:{server.port}") as connection:
            stream = connection.open(METHOD, body, {"x-request-id": value})
            await stream.ended.wait()
    assert stream.code is grpc.StatusCode.OK


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
async def test_bytes_that_are_no_message_or_none_at_all_are_invalid(
    channel: grpc.aio.Channel, method: str
) -> None:
    assert await ended(channel, method, NO_MESSAGE) == grpc.StatusCode.INVALID_ARGUMENT
    if method not in METHODS[3:]:
        assert await ended(channel, method) == grpc.StatusCode.INVALID_ARGUMENT


async def test_messages_of_reflection_wait_for_their_callers_turn(tmp_path: Path) -> None:
    asked = reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
    async with serving(CANDIDATE_POD, build_release(tmp_path)) as (server, channel):
        budget = server.guard.budget
        budget._charge("page", 1e6, rests=False)
        budget._rested_at = budget._clock() + 1e9
        budget.light("another")
        ask: Any = channel.stream_stream(f"/{METHODS[-1]}")
        call = ask(iter([asked]), timeout=30, metadata=((CALLER, "page"),))
        await until(lambda: budget.waiting == 1)
        # The other one is silent from now on.
        assert b"CandidateService" in await call.read()
        assert budget.used("page") > 5


CHECK = "/grpc.health.v1.Health/Check"
MESSAGE = request_for_one_video().SerializeToString()
MAX_BYTES = 64 << 10
INVALID = grpc.StatusCode.INVALID_ARGUMENT
KINDS = {
    "gzip": ("gzip", gzip.compress(MESSAGE), grpc.StatusCode.OK),
    "gzip and more": ("gzip", gzip.compress(MESSAGE) + b"more", INVALID),
    "a part of gzip": ("gzip", gzip.compress(MESSAGE)[:-5], INVALID),
    "no gzip": ("gzip", b"\xff nonsense", INVALID),
    "deflate": ("deflate", zlib.compress(MESSAGE), grpc.StatusCode.OK),
    "a bomb": ("gzip", gzip.compress(bytes(50 << 20)), grpc.StatusCode.RESOURCE_EXHAUSTED),
}


@pytest.mark.parametrize(("encoding", "sent", "code"), KINDS.values(), ids=KINDS.keys())
async def test_a_compressed_message_is_read_or_the_callers_mistake(
    release_folder: Path, encoding: str, sent: bytes, code: grpc.StatusCode
) -> None:
    settings = rpc_settings(max_message_bytes=MAX_BYTES)
    body = struct.pack(">BI", 1, len(sent)) + sent
    async with (
        serving(RANKING_POD, release_folder, settings=settings) as (server, _),
        http2(f"127.0.0.1:{server.port}") as connection,
        asyncio.timeout(30),
    ):
        headers = {"grpc-encoding": encoding}
        if code is not grpc.StatusCode.OK and sent:
            check = connection.open(CHECK, body, headers)
            await check.ended.wait()
            assert check.code is INVALID
        call = connection.open(METHOD, body, headers)
        await call.ended.wait()
    assert call.code is code


@pytest.mark.parametrize("message", [b"\x78\x01", b"\x78\x9c\x01", b"x", b"\x1f", b""])
def test_a_message_that_only_begins_as_if_it_were_compressed_is_left_as_it_is(
    message: bytes,
) -> None:
    # 78 01 is a message whose field 15 is 1.
    assert decompressed(message, MAX_BYTES) == message


def test_no_more_is_decompressed_than_shows_that_it_is_too_much() -> None:
    assert decompressed(gzip.compress(bytes(1 << 20)), 1_000) == bytes(1_001)
    assert decompressed(gzip.compress(bytes(1_000)), 1_000) == bytes(1_000)
