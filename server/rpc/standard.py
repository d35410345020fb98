"""Health, reflection and channelz, which gRPC's own packages answer, for requests of any bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

PREFIX = "/grpc."
"""What the paths of their methods begin with."""

Handler: TypeAlias = Any
"""grpc.RpcMethodHandler, whose stubs don't know that an aio handler is a coroutine."""
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


def explained(handler: Handler) -> Handler:
    """The handler, but with INVALID_ARGUMENT for a request that isn't there or can't be parsed.

    By itself gRPC would leave a call without a message open until its deadline, if it has one, and
    answer UNKNOWN to bytes that are no message. As the guard does, this reads the one message of a
    call itself; to the caller it is all the same.
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
        raw = await context.read()
        if raw is grpc.aio.EOF:
            words = "the call has no message"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, words)
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
            # Health's writes to the context; it yields nothing.
            await handler.unary_stream(await only(context), context)

        return grpc.stream_stream_rpc_method_handler(
            watch,
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    async def converse(raws: AsyncIterator[bytes], context: Context) -> AsyncIterator[Message]:
        requests = (await parsed(raw, context) async for raw in raws)
        async for response in handler.stream_stream(requests, context):
            yield response

    return grpc.stream_stream_rpc_method_handler(
        converse,
        request_deserializer=None,
        response_serializer=handler.response_serializer,
    )
