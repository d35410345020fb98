"""Reads the one message of a unary call, within a timeout, and decompresses messages."""

from __future__ import annotations

import asyncio
import zlib
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


COMPRESSED = (b"\x1f\x8b", b"\x78")
"""What messages begin with that are compressed by gzip, or by deflate."""


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


def decompressed(raw: bytes, max_bytes: int) -> bytes:
    """Return a message without its compression by gzip or deflate; as it is if it has none.

    gRPC's own decompression is off: it would end a call whose message is corrupt with INTERNAL,
    which counts as the server's failure. Here such a message is returned as it is, and can't be
    parsed. Whether one is compressed shows in itself: no protobuf message begins like gzip, and
    deflate ends with a checksum.

    Args:
        raw: the message as it was sent.
        max_bytes: of a longer message, the first byte beyond them is the last that is returned.
    """
    if not raw.startswith(COMPRESSED):
        return raw
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of either kind
    try:
        message = inflate.decompress(raw, max_bytes + 1)
    except zlib.error:
        return raw
    whole = inflate.eof and not inflate.unused_data
    return message if whole or len(message) > max_bytes else raw
