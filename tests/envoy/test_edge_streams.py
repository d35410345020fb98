"""What callers may have of the edge, for each connection, for each address and in all."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.builders.edge import GATEWAY, Edge, running_edge
from tests.builders.http2 import Http2, Stream, grpc_frame, http2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
SERVICE = grpc_frame(health_pb2.HealthCheckRequest(service=GATEWAY).SerializeToString())
OF_AN_ADDRESS = 10
"""Watches that one address may open at once; a further one every 30 s."""
IN_ALL = 100
OF_A_CONNECTION = 256


async def watch(connection: Http2, count: int) -> list[Stream]:
    """That many watches, once each has been answered."""
    streams = [connection.open(WATCH, SERVICE) for _ in range(count)]
    async with asyncio.timeout(60):
        for stream in streams:
            await stream.answered.wait()
    return streams


def states(streams: list[Stream]) -> tuple[int, int]:
    """How many go on, and how many were refused with RESOURCE_EXHAUSTED: all of them."""
    refused = [stream for stream in streams if stream.code is not None]
    assert {stream.code for stream in refused} <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all(stream.reset is None for stream in streams if stream not in refused)
    return len(streams) - len(refused), len(refused)


async def call(edge: Edge, calls: int = 50) -> None:
    """Calls that must all be answered, and a health check."""
    async with grpc.aio.insecure_channel(edge.address) as channel:
        stub = RecommendationServiceStub(channel)
        request = pb.RecommendRequest(viewer_id="1")
        await asyncio.gather(*(stub.Recommend(request, timeout=30) for _ in range(calls)))
        health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        answer = await health.Check(health_pb2.HealthCheckRequest(service=GATEWAY), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def none_is_left(edge: Edge) -> None:
    async with asyncio.timeout(60):
        for name in ("http.edge.downstream_rq_active", "cluster.gateway.upstream_rq_active"):
            while await edge.stat(name):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_watchers_of_one_address_are_bounded_and_calls_notice_nothing(edge: Edge) -> None:
    async with AsyncExitStack() as connections:
        streams: list[Stream] = []
        for _ in range(6):
            connection = await connections.enter_async_context(http2(edge.address, "127.0.1.1"))
            streams += await watch(connection, 50)
        held, _ = states(streams)
        assert held <= OF_AN_ADDRESS + 2  # of a slow machine some have come back meanwhile
        await call(edge)
        refused = next(stream for stream in streams if stream.code).headers
        assert refused["grpc-message"].startswith("limit of health checks, watches or reflection")
        assert refused["retry-after"] == "30"
        details = base64.b64decode(refused["grpc-status-details-bin"] + "==")
        retry = error_details_pb2.RetryInfo()
        assert status_pb2.Status.FromString(details).details[0].Unpack(retry)
        assert retry.retry_delay.ToSeconds() == 30
    await none_is_left(edge)


async def test_watchers_of_all_addresses_are_bounded_and_calls_notice_nothing(edge: Edge) -> None:
    async with AsyncExitStack() as connections:
        streams: list[Stream] = []
        for number in range(2 * IN_ALL // OF_AN_ADDRESS):
            local = f"127.0.2.{number + 1}"
            connection = await connections.enter_async_context(http2(edge.address, local))
            streams += await watch(connection, OF_AN_ADDRESS)
        held, refused = states(streams)
        # Each of Envoy's threads may go over it by those that it takes at once.
        assert 0 < held <= IN_ALL + 2 * OF_AN_ADDRESS
        assert refused > 0
        await call(edge)
    await none_is_left(edge)


async def test_reflection_streams_of_one_address_are_bounded(edge: Edge) -> None:
    async with http2(edge.address, "127.0.3.1") as connection, asyncio.timeout(60):
        # Silent, too: a caller that asks nothing is counted as well.
        streams = [connection.open(REFLECTION, b"", end=False) for _ in range(200)]
        while sum(stream.code is not None for stream in streams) < 100:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        states(streams)
        await call(edge)
    await none_is_left(edge)


async def test_a_watch_ends_with_its_callers_deadline(edge: Edge) -> None:
    async with http2(edge.address, "127.0.4.1") as connection, asyncio.timeout(60):
        stream = connection.open(WATCH, SERVICE, {"grpc-timeout": "500m"})
        await stream.ended.wait()
    await none_is_left(edge)


async def test_reflection_streams_that_go_silent_after_a_request_end(edge: Edge) -> None:
    asked = grpc_frame(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
    async with http2(edge.address, "127.0.6.1") as connection, asyncio.timeout(60):
        stream = connection.open(REFLECTION, asked, end=False)
        await stream.ended.wait()
    await none_is_left(edge)


async def test_health_checks_are_counted_before_their_message_is_there(edge: Edge) -> None:
    async with http2(edge.address, "127.0.7.1") as connection, asyncio.timeout(60):
        refused = 0
        while not refused:  # the slower the machine, the more of them are let in meanwhile
            checks = [connection.open(CHECK, b"\0", end=False) for _ in range(200)]
            for check in checks:
                await check.ended.wait()
            refused = sum(check.code is grpc.StatusCode.RESOURCE_EXHAUSTED for check in checks)


async def test_of_a_health_check_only_a_little_is_kept(edge: Edge) -> None:
    async with http2(edge.address, "127.0.8.1") as connection, asyncio.timeout(60):
        check = connection.open(CHECK, b"\0" * (5 << 10), end=False)
        await check.ended.wait()
    assert check.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_envoy_watches_its_heap(edge: Edge) -> None:
    async with asyncio.timeout(30):
        while not await edge.stat("overload.envoy.resource_monitors.fixed_heap.pressure"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for action in ("stop_accepting_requests", "reset_high_memory_stream"):
        assert await edge.stat(f"overload.envoy.overload_actions.{action}.active") == 0


async def test_streams_per_connection_are_bounded(edge: Edge) -> None:
    async with http2(edge.address) as connection:
        assert connection.max_streams == OF_A_CONNECTION


async def test_health_checks_are_bounded_apart_from_watches_and_calls(edge: Edge) -> None:
    async with http2(edge.address, "127.0.5.1") as connection, asyncio.timeout(60):
        await watch(connection, OF_AN_ADDRESS + 2)
        refused = 0
        while not refused:  # the slower the machine, the more of them are let in meanwhile
            checks = [connection.open(CHECK, SERVICE) for _ in range(150)]
            for check in checks:
                await check.ended.wait()
            codes = {check.code for check in checks}
            assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert grpc.StatusCode.OK in codes
            refused = sum(check.code is grpc.StatusCode.RESOURCE_EXHAUSTED for check in checks)
        await call(edge)


async def limited(edge: Edge, address: Callable[[int], str]) -> bool:
    """Whether the limit holds for calls that are forwarded from addresses, however slow all is."""
    async with grpc.aio.insecure_channel(edge.address) as channel:
        stub = RecommendationServiceStub(channel)

        async def code(forwarded: str) -> grpc.StatusCode:
            metadata = (("x-forwarded-for", forwarded),)
            request = pb.RecommendRequest(viewer_id="1")
            return await stub.Recommend(request, timeout=30, metadata=metadata).code()

        for first in range(0, 800, 40):
            sent = [code(address(number)) for number in range(first, first + 40)]
            codes = {*await asyncio.gather(*sent)}
            assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
            if grpc.StatusCode.RESOURCE_EXHAUSTED in codes:
                return True
    return False


@pytest.mark.parametrize("hops", [0, 1])
async def test_a_forwarded_address_counts_only_if_a_trusted_hop_adds_it(
    tmp_path: Path, hops: int
) -> None:
    def address(number: int) -> str:
        return str(ipaddress.IPv4Address((10 << 24) + number))

    control = {"rate_limit": 5, "trusted_hops": hops}
    async with running_edge(tmp_path, 1, control=control) as edge:
        assert await limited(edge, address) == (hops == 0)
        if hops:
            # What the caller itself has sent stands before what the proxy adds.
            assert await limited(edge, lambda number: f"{address(number)}, 198.51.100.1")
            # Of an IPv6 address the first half: a caller has all of the other.
            assert await limited(edge, "2001:db8::{:x}".format)
            assert not await limited(edge, "2001:db8:1:{:x}::1".format)
