"""Streams: guarded like any call, and ended so that their callers can go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from tests.builders.batches import batch_server
from tests.builders.refusals import failure_of
from tests.builders.rpc import running_server
from tests.builders.samples import Grown
from tests.builders.waiting import until
from vireo.server.rpc.admission import Admission, Slots
from vireo.server.rpc.errors import RpcError, not_found
from vireo.server.rpc.guard import ServiceLimits
from vireo.server.rpc.reading import Context
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.streams import Streams
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.event_pb2 import StreamEventsRequest
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

METHOD = "/vireo.v1.RecommendationService/BatchRecommend"
REQUEST = pb.BatchRecommendRequest(viewer_ids=["a", "b", "c"])


@dataclass
class Slates:
    """A gateway whose batches fail at a viewer, if told."""

    fails_at: str = ""
    failure: Exception = field(default_factory=lambda: ValueError("a bug"))
    begun: int = 0
    ended: int = 0

    async def answer(
        self,
        request: pb.BatchRecommendRequest,
        context: Any,
    ) -> AsyncGenerator[pb.BatchRecommendResponse, None]:
        self.begun += 1
        try:
            for viewer_id in request.viewer_ids:
                if viewer_id == self.fails_at:
                    raise self.failure
                if viewer_id == "hangs":
                    await asyncio.Event().wait()
                yield pb.BatchRecommendResponse(viewer_id=viewer_id)
        finally:
            self.ended += 1


@asynccontextmanager
async def served(
    slates: Slates, admission: Admission | None = None, **settings: Any
) -> AsyncIterator[tuple[RpcServer, Any]]:
    server = batch_server(slates.answer, ServiceLimits(admission), **settings)
    async with running_server(server) as channel:
        yield server, RecommendationServiceStub(channel)


async def test_all_responses_arrive_in_order_and_the_call_is_counted_with_its_id(
    grown: Grown,
) -> None:
    async with served(Slates()) as (server, stub):
        call = stub.BatchRecommend(REQUEST, metadata=(("x-request-id", "mine"),))
        assert [each.viewer_id async for each in call] == ["a", "b", "c"]
        assert dict(await call.trailing_metadata())["x-request-id"] == "mine"
        await until(lambda: server.guard.under_way == 0)
    assert grown("vireo_rpcs_total", method=METHOD, code="OK") == 1


async def test_a_bug_in_the_middle_of_a_stream_is_internal_and_names_the_request() -> None:
    slates = Slates(fails_at="b")
    async with served(slates) as (_, stub):
        error = await failure_of(stub.BatchRecommend(REQUEST, metadata=(("x-request-id", "r"),)))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "request id r" in (error.details() or "")
        slates.failure = not_found("gone")
        assert (await failure_of(stub.BatchRecommend(REQUEST))).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_stream_ends_with_its_caller_or_its_deadline(*, leaves: bool) -> None:
    slates = Slates()
    async with served(slates) as (server, stub):
        request = pb.BatchRecommendRequest(viewer_ids=["a", "hangs"])
        call = stub.BatchRecommend(request, timeout=60 if leaves else 0.3)
        if leaves:
            assert (await call.read()).viewer_id == "a"
            call.cancel()
        else:
            assert (await failure_of(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: slates.ended == slates.begun and server.guard.under_way == 0)


async def test_responses_are_made_while_no_other_call_is_under_way() -> None:
    slates = Slates()
    admission = Admission(Slots(6))
    async with served(slates, admission) as (_, stub):
        async with admission.call():
            call = stub.BatchRecommend(REQUEST)
            await until(admission._background.locked)
            assert not slates.begun
        assert [each.viewer_id async for each in call] == ["a", "b", "c"]


class Caller:
    """A caller that reads responses if it is told to, and sends messages and then ends or not."""

    def __init__(self, messages: int = 0, *, reads: bool = False, ends: bool = False) -> None:
        self.reads, self._ends, self._left = asyncio.Event(), ends, messages
        self.gone = False
        if reads:
            self.reads.set()

    async def write(self, _: Any) -> None:
        await self.reads.wait()

    async def read(self) -> Any:
        if self._left:
            self._left -= 1
            return b""
        if not self._ends:
            await asyncio.Event().wait()
        return grpc.aio.EOF

    def cancelled(self) -> bool:
        return self.gone


async def sent(streams: Streams, caller: Caller, slates: Slates) -> None:
    responses = slates.answer(REQUEST, None)
    await streams.send(responses, cast("Context", caller), nullcontext)


async def received(streams: Streams, caller: Caller) -> int:
    """How many messages are read."""

    async def read(raw: bytes) -> StreamEventsRequest:
        return StreamEventsRequest.FromString(raw)

    return len([each async for each in streams.receive(cast("Context", caller), read)])


async def test_a_caller_that_does_not_read_has_no_further_response_made() -> None:
    caller, slates = Caller(), Slates()
    made = list[str]()

    async def responses() -> AsyncGenerator[pb.BatchRecommendResponse, None]:
        async for response in slates.answer(REQUEST, None):
            made.append(response.viewer_id)
            yield response

    sending = asyncio.ensure_future(
        Streams().send(responses(), cast("Context", caller), nullcontext)
    )
    for _ in range(10):
        await asyncio.sleep(0)
    assert made == ["a"]
    caller.reads.set()
    await sending
    assert made == ["a", "b", "c"]


@pytest.mark.parametrize("bound", ["max_silence", "max_seconds"])
async def test_a_silent_or_endless_stream_is_ended_and_the_caller_told_to_open_another(
    bound: str,
) -> None:
    streams, slates = Streams(), Slates()
    setattr(streams, bound, 0.02)
    streams_of = [received(streams, Caller(1))]
    if bound == "max_seconds":
        streams_of.append(sent(streams, Caller(), slates))  # type: ignore[arg-type]
    for stream in streams_of:
        with pytest.raises(RpcError, match=r"0\.02 s; continue on another stream") as ended:
            await stream
        assert ended.value.code is grpc.StatusCode.UNAVAILABLE
    assert slates.ended == slates.begun


async def test_a_timeout_of_the_handlers_own_is_not_taken_for_the_streams() -> None:
    with pytest.raises(TimeoutError):
        await sent(Streams(), Caller(reads=True), Slates("b", TimeoutError()))


async def test_a_stream_is_read_until_its_caller_ends_it_or_has_gone() -> None:
    assert await received(Streams(), Caller(5, ends=True)) == 5
    caller = Caller(1, ends=True)
    caller.gone = True
    with pytest.raises(asyncio.CancelledError):
        await received(Streams(), caller)


async def test_a_server_that_shuts_down_ends_silent_streams_and_begins_none() -> None:
    streams = Streams()
    reading = asyncio.ensure_future(received(streams, Caller()))
    await asyncio.sleep(0)
    streams.close()
    for stream in (reading, received(streams, Caller()), sent(streams, Caller(), Slates())):
        with pytest.raises(RpcError, match="shuts down"):
            await stream


class ClosedAtItsEnd(Caller):
    """A silent caller whose server shuts down at the moment at which its stream is ended."""

    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self._streams = streams

    async def read(self) -> Any:
        try:
            return await super().read()
        finally:
            self._streams.close()


async def test_a_server_shuts_down_also_at_the_moment_at_which_a_stream_ends_by_itself() -> None:
    streams = Streams()
    streams.max_silence = 0.01
    with pytest.raises(RpcError, match="shuts down"):
        await received(streams, ClosedAtItsEnd(streams))
