"""A gRPC server from the bind to the last call, and what handlers and callers see of each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.builders.columns import request_for_one_video
from tests.builders.rpc import rpc_settings, running_server, serving
from tests.builders.waiting import until
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking.service import RANKING_POD
from vireo.server.recommend.runner import Caller
from vireo.server.rpc.server import RpcServer
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest, GetServingReleaseResponse
from vireo.v1.release_pb2_grpc import (
    ReleaseServiceServicer,
    ReleaseServiceStub,
    add_ReleaseServiceServicer_to_server,
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
RANKING, SERVICE = "vireo.v1.RankingService", "vireo.v1.ReleaseService"


def health_of(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]


def reflection_of(channel: grpc.aio.Channel) -> Any:
    return reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]


def channelz_of(channel: grpc.aio.Channel) -> Any:
    return channelz_pb2_grpc.ChannelzStub(channel)  # type: ignore[no-untyped-call]


async def test_watch_sees_loading_serving_and_draining(release_folder: Path) -> None:
    async with serving(RANKING_POD, None, settings=rpc_settings(drain_seconds=0.2)) as (
        server,
        channel,
    ):
        watch = health_of(channel).Watch(health_pb2.HealthCheckRequest(service=RANKING))
        assert (await watch.read()).status == NOT_SERVING
        await server.set_serving(True)
        assert (await watch.read()).status == SERVING
        draining = asyncio.create_task(server.drain())
        assert (await watch.read()).status == NOT_SERVING
        await draining


async def test_health_covers_each_service_and_the_server(release_folder: Path) -> None:
    found, unknown = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND
    async with serving(RANKING_POD, release_folder) as (_, channel):
        for name, code in (("", found), (RANKING, found), (SERVICE, found), ("v.No", unknown)):
            check = health_of(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert await check.code() is code


async def test_reflection_lists_and_describes_the_services(release_folder: Path) -> None:
    async with serving(RANKING_POD, release_folder) as (_, channel):
        call = reflection_of(channel).ServerReflectionInfo(
            iter(
                [
                    reflection_pb2.ServerReflectionRequest(list_services=""),
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol=RANKING),
                ]
            )
        )
        listed, described = [answer async for answer in call]
    names = {service.name for service in listed.list_services_response.service}
    assert {RANKING, "vireo.v1.ReleaseService", "grpc.health.v1.Health"} <= names
    assert "grpc.channelz.v1.Channelz" in names
    assert described.file_descriptor_response.file_descriptor_proto


async def test_a_server_that_serves_before_it_listens_is_seen_serving_at_once() -> None:
    server = RpcServer(rpc_settings())
    await server.set_serving(True)
    async with running_server(server) as channel:
        watch = health_of(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING


async def test_a_server_that_never_listened_is_drained_too() -> None:
    server = RpcServer(rpc_settings())
    async with asyncio.timeout(60):
        await server.drain()


async def test_a_draining_server_finishes_calls_in_flight_and_rejects_new_ones(
    release_folder: Path,
) -> None:
    queue = RunQueue()
    released = threading.Event()
    settings = rpc_settings(grace_seconds=60)
    async with serving(RANKING_POD, release_folder, settings=settings, queue=queue) as (
        server,
        channel,
    ):
        busy = asyncio.create_task(queue.run_in_thread(released.wait, Caller()))
        under_way = RankingServiceStub(channel).RankCandidates(request_for_one_video())
        await until(lambda: queue.queued == 2)
        draining = asyncio.create_task(server.drain())

        async def refused(seconds: float) -> bool:
            late = RankingServiceStub(channel).RankCandidates(
                request_for_one_video(), timeout=seconds
            )
            try:
                await late
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNAVAILABLE
            return False

        async with asyncio.timeout(60):
            while not await refused(0.5):  # the drain begins
                pass
        assert not draining.done()
        assert not under_way.done()
        released.set()
        assert (await under_way).ids == ["video-1"]
        await asyncio.gather(busy, draining)
        assert await refused(30)


@pytest.mark.parametrize("busy", [True, False])
async def test_drain_stops_the_grpc_server_once(
    release_folder: Path, monkeypatch: pytest.MonkeyPatch, *, busy: bool
) -> None:
    # Two stops that end at the same time have crashed the process, too seldom to wait for it.
    queue = RunQueue()
    released = threading.Event()
    settings = rpc_settings(grace_seconds=0.4 if busy else 600)  # a watch isn't waited for
    async with serving(RANKING_POD, release_folder, settings=settings, queue=queue) as (
        server,
        channel,
    ):
        watch = health_of(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        blocking = asyncio.create_task(queue.run_in_thread(released.wait, Caller()))
        if busy:
            under_way = RankingServiceStub(channel).RankCandidates(request_for_one_video())
            await until(lambda: queue.queued == 2)
        stops, stop = list[float | None](), server._server.stop

        async def counted(grace: float | None) -> None:
            stops.append(grace)
            await stop(grace)

        monkeypatch.setattr(server._server, "stop", counted)
        await asyncio.wait_for(server.drain(), 30)
        assert len(stops) == 1
        released.set()
        await blocking
        if busy:
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await under_way


async def test_background_work_that_fails_or_just_ends_ends_the_server() -> None:
    async def end(failure: Exception | None) -> None:
        if failure is not None:
            raise failure

    for failure, words in ((RuntimeError("the loader broke"), "loader broke"), (None, "has ended")):
        with pytest.raises(RuntimeError, match=words):
            await RpcServer(rpc_settings()).run(end(failure))


async def test_reflection_and_channelz_can_be_switched_off(release_folder: Path) -> None:
    settings = rpc_settings(reflection=False)
    async with serving(RANKING_POD, release_folder, settings=settings) as (_, channel):
        for version in ("v1", "v1alpha"):
            method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            # Nothing is sent: a stream that is refused while it writes ends in INTERNAL.
            ask: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
            assert await ask(timeout=30).code() is grpc.StatusCode.UNIMPLEMENTED
        servers = channelz_of(channel).GetServers(channelz_pb2.GetServersRequest())
        assert await servers.code() is grpc.StatusCode.UNIMPLEMENTED
        answer = await health_of(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == SERVING


class Handler(ReleaseServiceServicer):
    """Answers with the number of the call unless it is to wait."""

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.calls = 0
        self.cancelled = 0

    async def GetServingRelease(  # noqa: N802
        self, request: GetServingReleaseRequest, context: Any
    ) -> GetServingReleaseResponse:
        self.calls += 1
        if self.waits:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return GetServingReleaseResponse(pod=str(self.calls))


@asynccontextmanager
async def handling(handler: Handler) -> AsyncIterator[tuple[RpcServer, grpc.aio.Channel]]:
    server = RpcServer(rpc_settings())
    server.add(SERVICE, lambda methods: add_ReleaseServiceServicer_to_server(handler, methods))
    async with running_server(server) as channel:
        yield server, channel


def ask(channel: grpc.aio.Channel, **options: Any) -> Any:
    return ReleaseServiceStub(channel).GetServingRelease(GetServingReleaseRequest(), **options)


async def test_more_metadata_than_the_limit_fails_only_its_own_call() -> None:
    async with handling(Handler()) as (_, channel):
        code = await ask(channel, metadata=(("long", "x" * 110_000),)).code()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await ask(channel, timeout=30)).pod == "1"


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_handler_is_cancelled_once_its_caller_has_gone(*, leaves: bool) -> None:
    handler = Handler(waits=True)
    async with handling(handler) as (server, channel):
        call = ask(channel, timeout=60 if leaves else 0.2)
        await until(lambda: server.guard.under_way == 1)
        if leaves:
            call.cancel()
        wanted = grpc.StatusCode.CANCELLED if leaves else grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call.code() is wanted
        await until(lambda: handler.cancelled == 1 and server.guard.under_way == 0)


async def test_no_call_that_races_with_a_stop_ends_in_anything_but_unavailable() -> None:
    # grpcio ends some that arrive at the last moment with CANCELLED.
    for _ in range(3):
        codes: set[grpc.StatusCode] = set()
        async with handling(Handler()) as (server, channel):
            stopped = asyncio.Event()

            async def calls(
                channel: grpc.aio.Channel = channel,
                stopped: asyncio.Event = stopped,
                codes: set[grpc.StatusCode] = codes,
            ) -> None:
                while not stopped.is_set():
                    codes.add(await ask(channel, timeout=30).code())

            callers = [asyncio.create_task(calls()) for _ in range(8)]
            await until(lambda: grpc.StatusCode.OK in codes)  # noqa: B023
            await server.drain()
            await until(lambda: grpc.StatusCode.UNAVAILABLE in codes)  # noqa: B023
            stopped.set()
            await asyncio.gather(*callers)
        assert codes <= {
            grpc.StatusCode.OK,
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        }
