import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.builders.columns import request_for_one_video
from tests.builders.rpc import rpc_settings, serving
from tests.builders.waiting import until
from vireo.server.errors import VireoError
from vireo.server.pipeline.caller import Caller
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking.service import RANKING_POD
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.standard import MAX_STREAM_SECONDS
from vireo.server.rpc.transport import CONNECTION_AGE_GRACE
from vireo.v1.ranking_pb2_grpc import RankingServiceStub

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
RANKING = "vireo.v1.RankingService"


def health_of(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]


def reflection_of(channel: grpc.aio.Channel) -> Any:
    return reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[no-untyped-call]


def channelz_of(channel: grpc.aio.Channel) -> Any:
    return channelz_pb2_grpc.ChannelzStub(channel)  # type: ignore[no-untyped-call]


async def test_health_covers_each_service_and_the_server(release_folder: Path) -> None:
    async with serving(RANKING_POD, release_folder) as (server, channel):
        stub = health_of(channel)
        for name in ("", RANKING, "vireo.v1.ReleaseService"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == SERVING
        await server.set_serving(False)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=RANKING))
        assert answer.status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="vireo.v1.NoService"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


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


async def test_channelz_counts_calls(release_folder: Path) -> None:
    async with serving(RANKING_POD, release_folder) as (_, channel):
        await RankingServiceStub(channel).RankCandidates(request_for_one_video())
        async with asyncio.timeout(30):
            while True:  # it is counted once both ends are through with it
                servers = await channelz_of(channel).GetServers(channelz_pb2.GetServersRequest())
                if sum(server.data.calls_succeeded for server in servers.server) >= 1:
                    break


async def test_a_connection_at_its_maximum_age_is_reopened(release_folder: Path) -> None:
    settings = rpc_settings(max_connection_age=0.2)
    async with serving(RANKING_POD, release_folder, settings=settings) as (_, channel):
        check = health_of(channel).Check
        await check(health_pb2.HealthCheckRequest())
        async with asyncio.timeout(60):
            while channel.get_state() == grpc.ChannelConnectivity.READY:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await check(health_pb2.HealthCheckRequest())).status == SERVING


def test_a_stream_outlasts_its_connections_age_until_it_ends_by_itself() -> None:
    # A watch that is opened just before its connection has reached its age.
    assert CONNECTION_AGE_GRACE > MAX_STREAM_SECONDS


async def test_port_that_is_taken_is_explained(release_folder: Path) -> None:
    async with serving(RANKING_POD, release_folder) as (server, _):
        second = RpcServer(rpc_settings(port=server.port))
        with pytest.raises(
            VireoError, match=rf"can't listen on 127\.0\.0\.1:{server.port}: the port is taken"
        ):
            await second.start()


async def test_a_server_that_serves_before_it_listens_is_seen_serving_at_once() -> None:
    server = RpcServer(rpc_settings())
    await server.set_serving(True)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            watch = health_of(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
    finally:
        await server.drain()


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
async def test_drain_stops_the_grpc_server_once(release_folder: Path, *, busy: bool) -> None:
    # Two stops that end at the same time have crashed the process, too seldom to wait for it.
    queue = RunQueue()
    released = threading.Event()
    settings = rpc_settings(grace_seconds=0.4)
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
        stops = count_stops(server)
        await server.drain()
        assert len(stops) == 1
        released.set()
        await blocking
        if busy:
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await under_way


def count_stops(server: RpcServer) -> list[float | None]:
    """The grace of each stop() of gRPC's server from now on."""
    stops: list[float | None] = []
    grpc_server = server._server
    stop = grpc_server.stop

    async def counted(grace: float | None) -> None:
        stops.append(grace)
        await stop(grace)

    grpc_server.stop = counted  # type: ignore[method-assign]
    return stops


async def test_drain_with_an_open_watch_does_not_wait_for_all_the_grace(
    release_folder: Path,
) -> None:
    settings = rpc_settings(grace_seconds=600)
    async with serving(RANKING_POD, release_folder, settings=settings) as (server, channel):
        watch = health_of(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        await asyncio.wait_for(server.drain(), 30)


async def test_failed_background_work_ends_the_server() -> None:
    async def fail() -> None:
        raise RuntimeError("the loader broke")

    with pytest.raises(RuntimeError, match="the loader broke"):
        await RpcServer(rpc_settings()).run(fail())


async def test_background_work_that_just_ends_is_a_failure_too() -> None:
    async def end() -> None:
        return

    with pytest.raises(RuntimeError, match="has ended"):
        await RpcServer(rpc_settings()).run(end())


async def test_reflection_and_channelz_can_be_switched_off(release_folder: Path) -> None:
    settings = rpc_settings(reflection=False, channelz=False)
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
