"""What a handler and its caller see of each other through the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.builders.http2 import http2
from tests.builders.rpc import rpc_settings
from tests.builders.waiting import until
from vireo.server.rpc.server import RpcServer
from vireo.v1.release_pb2 import GetServingReleaseRequest, GetServingReleaseResponse
from vireo.v1.release_pb2_grpc import (
    ReleaseServiceServicer,
    ReleaseServiceStub,
    add_ReleaseServiceServicer_to_server,
)

SERVICE = "vireo.v1.ReleaseService"
METHOD = f"/{SERVICE}/GetServingRelease"
NO_MESSAGE = b"\0\0\0\0\0"


class Handler(ReleaseServiceServicer):
    """Keeps what it is told of each call, and answers with its number unless it is to wait."""

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.metadata: list[tuple[str, str | bytes]] = []
        """Metadata of the latest call."""
        self.left: list[float | None] = []
        """Seconds until the deadline of each call."""
        self.cancelled = 0

    async def GetServingRelease(  # noqa: N802
        self, request: GetServingReleaseRequest, context: Any
    ) -> GetServingReleaseResponse:
        self.metadata = [tuple(each) for each in context.invocation_metadata()]
        self.left.append(context.time_remaining())
        if self.waits:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return GetServingReleaseResponse(pod=str(len(self.left)))


@asynccontextmanager
async def handling(handler: Handler) -> AsyncIterator[tuple[RpcServer, grpc.aio.Channel]]:
    server = RpcServer(rpc_settings())
    server.add(SERVICE, lambda methods: add_ReleaseServiceServicer_to_server(handler, methods))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield server, channel
    finally:
        await server.drain()


def ask(channel: grpc.aio.Channel, **options: Any) -> Any:
    return ReleaseServiceStub(channel).GetServingRelease(GetServingReleaseRequest(), **options)


async def test_a_handler_sees_what_is_left_of_the_deadline_and_none_without_one() -> None:
    handler = Handler()
    async with handling(handler) as (_, channel):
        await ask(channel)
        await ask(channel, timeout=100)
    without, within = handler.left
    assert without is None
    assert within is not None
    assert 0 < within <= 101


async def test_metadata_arrives_as_it_was_sent() -> None:
    handler = Handler()
    sent = (("color", "red"), ("color", "blue"), ("key-bin", b"\x00\xff"), ("long", "x" * 70_000))
    async with handling(handler) as (_, channel):
        await ask(channel, metadata=sent)
    assert [each for each in handler.metadata if each[0] in dict(sent)] == list(sent)


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
        await until(lambda: server.under_way == 1)
        if leaves:
            call.cancel()
        wanted = grpc.StatusCode.CANCELLED if leaves else grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call.code() is wanted
        await until(lambda: handler.cancelled == 1 and server.under_way == 0)


async def test_a_thousand_calls_at_a_time_on_one_connection_each_get_an_answer() -> None:
    async with handling(Handler()) as (_, channel):
        answers = await asyncio.gather(*(ask(channel) for _ in range(1000)))
    assert {int(answer.pod) for answer in answers} == set(range(1, 1001))


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(range(200)), b"\xff" * 5000]
)
async def test_bytes_that_are_no_http2_end_only_their_connection(garbage: bytes) -> None:
    async with handling(Handler()) as (server, channel):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(garbage)
        async with asyncio.timeout(30):
            await asyncio.gather(reader.read(), return_exceptions=True)
        writer.close()
        assert (await ask(channel, timeout=30)).pod == "1"


@pytest.mark.parametrize(
    ("changed", "body"),
    [
        ({":path": "/" + "x" * 5000}, NO_MESSAGE),
        ({":path": "/a/caf%c3%a9"}, NO_MESSAGE),
        ({"content-type": "text/plain"}, NO_MESSAGE),
        ({"grpc-timeout": "soon"}, NO_MESSAGE),
        ({"grpc-encoding": "snappy"}, NO_MESSAGE),
        ({}, b"\1" + NO_MESSAGE[1:]),
        ({}, NO_MESSAGE + b"more"),
    ],
)
async def test_an_odd_request_ends_and_others_are_answered(
    changed: dict[str, str], body: bytes
) -> None:
    async with handling(Handler()) as (server, channel):
        async with asyncio.timeout(30), http2(f"127.0.0.1:{server.port}") as connection:
            stream = connection.open(METHOD, body, changed)
            await stream.ended.wait()
        assert stream.code is not grpc.StatusCode.UNKNOWN
        assert (await ask(channel, timeout=30)).pod


async def test_an_unknown_method_is_unimplemented() -> None:
    async with handling(Handler()) as (_, channel):
        for path in (f"/{SERVICE}/Guess", "/no.Service/Call"):
            method: Any = channel.unary_unary(path)
            code: grpc.StatusCode = await method(b"", timeout=30).code()
            assert code is grpc.StatusCode.UNIMPLEMENTED


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
