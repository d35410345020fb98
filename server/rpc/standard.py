"""Health, reflection and channelz: requests of any bytes, and a bound on streams.

Their handlers are gRPC's own packages' or as simple as those. What is said here of a request holds
for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from server.rpc.errors import ShedError, ShedReason
from server.rpc.reading import Context, Handler, NoMessageError, only_message

PREFIX = "/grpc."
"""Prefix of the paths of their methods."""

MAX_STREAM_SECONDS = 300.0
"""Maximum seconds of a stream, for example a health watch. Its client opens it again."""


class StreamLimit:
    """Bounds how many streams are open at a time, apart from calls, and for how long."""

    def __init__(self, max_streams: int, max_seconds: float = MAX_STREAM_SECONDS) -> None:
        """Start with none open."""
        self.max_streams = max_streams
        self.max_seconds = max_seconds
        self.open = 0

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self.open >= self.max_streams:
            raise ShedError(ShedReason.STREAMS)
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    @asynccontextmanager
    async def stream(self, context: Context) -> AsyncIterator[None]:
        """Count a stream as open until the block ends; end it with OK once its time is over.

        A stream beyond the limit is aborted with RESOURCE_EXHAUSTED.
        """
        try:
            with self._counted():
                async with asyncio.timeout(self.max_seconds):
                    yield
        except TimeoutError:
            return
        except ShedError as error:
            details = (("grpc-status-details-bin", error.status()),)
            await context.abort(error.code, error.message, details)


def explained(handler: Handler, limit: StreamLimit) -> Handler:
    """Return the handler, but with INVALID_ARGUMENT for a request that is missing or invalid.

    gRPC itself would leave a call without a message open until its deadline, if it has one, and
    respond UNKNOWN to bytes that aren't a message. As the guard does, this reads the one message
    of a call itself; to the caller it makes no difference.

    Args:
        handler: the handler of any method of these services.
        limit: counts it if it streams.
    """
    parse = handler.request_deserializer

    async def parsed(raw: bytes, context: Context) -> Message:
        try:
            message: Message = parse(raw)
        except DecodeError as error:
            words = f"the request can't be parsed: {error}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, words)
        return message

    async def only(context: Context) -> Message:
        try:
            raw = await only_message(context)
        except NoMessageError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return await parsed(raw, context)

    if handler.unary_unary is not None:

        async def answer(_: object, context: Context) -> Message:
            response: Message = await handler.unary_unary(await only(context), context)
            return response

        return grpc.stream_unary_rpc_method_handler(
            answer,
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )
    if handler.unary_stream is not None:

        async def watch(_: object, context: Context) -> None:
            async with limit.stream(context):
                # Health's writes to the context; it yields nothing.
                await handler.unary_stream(await only(context), context)

        return grpc.stream_stream_rpc_method_handler(
            watch,
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    async def converse(_: object, context: Context) -> None:
        async with limit.stream(context):
            requests = _messages(context)
            async for response in handler.stream_stream(
                (await parsed(raw, context) async for raw in requests), context
            ):
                await context.write(response)

    return grpc.stream_stream_rpc_method_handler(
        converse,
        request_deserializer=None,
        response_serializer=handler.response_serializer,
    )


async def _messages(context: Context) -> AsyncIterator[bytes]:
    """Yield the caller's messages until it ends its side; the first must arrive within a moment."""
    try:
        raw = await only_message(context)
    except NoMessageError:
        return  # it sends nothing, and gets nothing
    yield raw
    while (further := await context.read()) is not grpc.aio.EOF:
        yield further
