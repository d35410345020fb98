"""Reads the messages of callers' streams: each within a timeout, and all within a maximum time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import grpc.aio
from google.protobuf.message import Message

from server.rpc.errors import RpcError, unavailable
from server.rpc.reading import Context
from server.rpc.standard import MAX_STREAM_SECONDS

MAX_SILENCE_SECONDS = 30.0
"""Maximum seconds between two messages of a stream."""


class ClientStreams:
    """The open streams of a server. Use it from one event loop."""

    def __init__(self) -> None:
        """Start without streams."""
        self.max_seconds = MAX_STREAM_SECONDS
        self.max_silence = MAX_SILENCE_SECONDS
        self._reading: set[asyncio.Timeout] = set()
        self._closed = False

    async def messages(
        self, context: Context, read: Callable[[bytes], Awaitable[Message]]
    ) -> AsyncIterator[Message]:
        """Yield the messages of a call until its caller ends the stream.

        Args:
            context: the call's.
            read: returns a valid message, or raises RpcError.

        Raises:
            RpcError: UNAVAILABLE if the stream is silent or open for too long, or the server shuts
                down: the caller should continue on another stream.
        """
        clock = asyncio.get_running_loop().time
        ends = clock() + self.max_seconds
        while True:
            silent_at = clock() + self.max_silence
            try:
                async with asyncio.timeout_at(min(silent_at, ends)) as timeout:
                    self._reading.add(timeout)
                    if self._closed:
                        timeout.reschedule(clock())
                    raw = await context.read()
            except TimeoutError as error:
                raise self._ended(over=clock() >= ends) from error
            finally:
                self._reading.discard(timeout)
            if raw is grpc.aio.EOF:
                if context.cancelled():
                    raise asyncio.CancelledError
                return
            yield await read(raw)

    def close(self) -> None:
        """End each stream that waits for a message, and the others before their next one."""
        self._closed = True
        now = asyncio.get_running_loop().time()
        for timeout in self._reading:
            if not timeout.expired():  # else it ends by itself at this very moment
                timeout.reschedule(now)

    def _ended(self, *, over: bool) -> RpcError:
        reason = f"no message arrived for {self.max_silence:g} s"
        if self._closed:
            reason = "this server shuts down"
        elif over:
            reason = f"the stream was open for {self.max_seconds:g} s"
        return unavailable(f"{reason}; continue on another stream", timedelta(0))
