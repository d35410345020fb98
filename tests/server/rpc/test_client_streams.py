"""When a server ends the stream of a caller that could go on for ever."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from vireo.v1.event_pb2 import StreamEventsRequest

from server.rpc.client_streams import ClientStreams
from server.rpc.errors import RpcError
from server.rpc.reading import Context


class FakeContext:
    """A caller that sends some messages, and then either ends the stream or is silent."""

    def __init__(self, count: int, *, ends: bool) -> None:
        self._left, self._ends = count, ends
        self.left = False

    async def read(self) -> Any:
        if self._left:
            self._left -= 1
            return b""
        if not self._ends:
            await asyncio.Event().wait()
        return grpc.aio.EOF

    def cancelled(self) -> bool:
        return self.left


async def taken(streams: ClientStreams, caller: FakeContext) -> int:
    """How many messages are read."""

    async def read(raw: bytes) -> StreamEventsRequest:
        return StreamEventsRequest.FromString(raw)

    messages = streams.messages(cast("Context", caller), read)
    return len([each async for each in messages])


async def test_a_stream_is_read_until_its_caller_ends_it() -> None:
    assert await taken(ClientStreams(), FakeContext(5, ends=True)) == 5


async def test_a_caller_that_leaves_cancels_the_call() -> None:
    caller = FakeContext(1, ends=True)
    caller.left = True
    with pytest.raises(asyncio.CancelledError):
        await taken(ClientStreams(), caller)


@pytest.mark.parametrize("bound", ["max_silence", "max_seconds"])
async def test_a_silent_or_endless_stream_is_ended_and_the_caller_told_to_open_another(
    bound: str,
) -> None:
    streams = ClientStreams()
    setattr(streams, bound, 0.02)
    with pytest.raises(RpcError, match=r"0\.02 s; continue on another stream") as ended:
        await taken(streams, FakeContext(1, ends=False))
    assert ended.value.code is grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_shuts_down_ends_silent_streams_at_once_and_reads_no_more() -> None:
    streams = ClientStreams()
    reading = asyncio.ensure_future(taken(streams, FakeContext(0, ends=False)))
    await asyncio.sleep(0)
    streams.close()
    for each in (reading, asyncio.ensure_future(taken(streams, FakeContext(0, ends=False)))):
        with pytest.raises(RpcError, match="shuts down"):
            await each


class ClosedAtItsEnd(FakeContext):
    """A silent caller whose server shuts down at the moment at which its stream is ended."""

    def __init__(self, streams: ClientStreams) -> None:
        super().__init__(0, ends=False)
        self._streams = streams

    async def read(self) -> Any:
        try:
            return await super().read()
        finally:
            self._streams.close()


async def test_a_server_shuts_down_also_at_the_moment_at_which_a_stream_ends_by_itself() -> None:
    streams = ClientStreams()
    streams.max_silence = 0.01
    with pytest.raises(RpcError, match="shuts down"):
        await taken(streams, ClosedAtItsEnd(streams))
