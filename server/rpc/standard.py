"""Health, reflection and channelz: invalid requests are explained, and streams are limited.

Their handlers are those of gRPC's own packages, or as simple.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from vireo.server.rpc.budget import Budget
from vireo.server.rpc.caller import caller_of
from vireo.server.rpc.errors import RpcError
from vireo.server.rpc.places import Places
from vireo.server.rpc.reading import Context, Handler, NoMessageError, decompressed, only_message

PREFIX = "/grpc."
"""Prefix of the paths of their methods."""

MAX_STREAM_SECONDS = 300.0
"""Maximum seconds of a stream, for example a health watch. Its client opens it again."""

_MAX_BYTES = 64 << 10
"""Maximum bytes to which a message of theirs is decompressed."""
_MESSAGE_SECONDS = 5e-3
"""Cost of a message of a stream: what reflection answers with may have 100 KB. A client asks for
some ten."""


@asynccontextmanager
async def _open_stream(context: Context, places: Places) -> AsyncIterator[None]:
    """Hold a place for a stream until the block ends; end it with OK once its time is over.

    A stream that has no place is aborted with RESOURCE_EXHAUSTED, or UNAVAILABLE if another
    caller needs its place.
    """
    try:
        async with places.place(caller_of(context)):
            with suppress(TimeoutError):
                async with asyncio.timeout(MAX_STREAM_SECONDS):
                    yield
    except RpcError as error:
        details = (("grpc-status-details-bin", error.status()),)
        await context.abort(error.code, error.message, details)


def explained(handler: Handler, places: Places, budget: Budget) -> Handler:
    """Return the handler, but with INVALID_ARGUMENT for a request that is missing or invalid.

    gRPC itself would leave a call without a message open until its deadline, if it has one, and
    respond UNKNOWN to bytes that aren't a message. Like the guard, this reads the one message
    of a call itself; to the caller it makes no difference.

    Args:
        handler: the handler of any method of these services.
        places: those of streams, apart from calls.
        budget: charges the caller with each message of a stream of them.
    """

    async def parsed(raw: bytes, context: Context) -> Message:
        try:
            message: Message = handler.request_deserializer(raw)
        except DecodeError as error:
            reason = f"the request can't be parsed: {error}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)
        return message

    async def only(context: Context) -> Message:
        try:
            raw = await only_message(context)
        except NoMessageError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return await parsed(raw, context)

    async def messages(context: Context) -> AsyncIterator[Message]:
        """Yield messages until the caller ends its side; the first must arrive within seconds."""
        try:
            raw: Any = await only_message(context)
        except NoMessageError:
            return  # it sends nothing, and gets nothing
        caller = caller_of(context)
        while raw is not grpc.aio.EOF:
            async with budget.turn(caller, _MESSAGE_SECONDS):
                pass
            yield await parsed(raw, context)
            raw = await context.read()

    async def answer(_: object, context: Context) -> Message:
        response: Message = await handler.unary_unary(await only(context), context)
        return response

    async def stream(_: object, context: Context) -> None:
        async with _open_stream(context, places):
            if handler.unary_stream is not None:  # health's, which writes to the context
                await handler.unary_stream(await only(context), context)
                return
            async for response in handler.stream_stream(messages(context), context):
                await context.write(response)

    read = partial(decompressed, max_bytes=_MAX_BYTES)
    if handler.unary_unary is not None:
        return grpc.stream_unary_rpc_method_handler(answer, read, handler.response_serializer)
    return grpc.stream_stream_rpc_method_handler(stream, read, handler.response_serializer)
