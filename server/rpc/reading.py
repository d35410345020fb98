"""Reads the one message of a unary call, within a timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeAlias

import grpc
import grpc.aio

Handler: TypeAlias = Any
"""grpc.RpcMethodHandler, whose stubs don't know that an aio handler is a coroutine."""
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Metadata: TypeAlias = Iterable[tuple[str, Any]]

MAX_MESSAGE_SECONDS = 2.0
"""Maximum seconds between a call's headers and the end of its message. A caller that opens calls
and stays silent holds each no longer."""


class NoMessageError(Exception):
    """A call has no message. The text is for its caller."""


async def only_message(context: Context) -> bytes:
    """Return the bytes of a call's message.

    Raises:
        NoMessageError: there is none, or none arrives within MAX_MESSAGE_SECONDS.
    """
    try:
        # By HTTP, a message is also decoded meanwhile: that may take until the call's deadline.
        async with asyncio.timeout(getattr(context, "read_seconds", MAX_MESSAGE_SECONDS)):
            raw = await context.read()
    except TimeoutError as error:
        seconds = f"{MAX_MESSAGE_SECONDS:g}"
        raise NoMessageError(f"no message arrived within {seconds} s of the call") from error
    if raw is not grpc.aio.EOF:
        return bytes(raw)
    if context.cancelled():  # before its message was here
        raise asyncio.CancelledError
    raise NoMessageError("the call has no message")
