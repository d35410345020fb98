"""Streams of messages from callers, and of responses to them: none outlasts a maximum time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import timedelta
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from vireo.server.rpc.errors import RpcError, unavailable
from vireo.server.rpc.reading import Context
from vireo.server.rpc.standard import MAX_STREAM_SECONDS

MAX_SILENCE_SECONDS = 30.0
"""Maximum seconds between two messages of a caller's stream."""


class Streams:
    """The open streams of a server. Use it from one event loop."""

    def __init__(self) -> None:
        """Start without streams."""
        self.max_seconds = MAX_STREAM_SECONDS
        self.max_silence = MAX_SILENCE_SECONDS
        self._timeouts: set[asyncio.Timeout] = set()
        self._closed = False

    async def receive(
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
            timeout = self._timeout(min(clock() + self.max_silence, ends))
            try:
                async with timeout:
                    raw = await context.read()
            except TimeoutError as error:
                raise self._ended(silent=clock() < ends) from error
            finally:
                self._timeouts.discard(timeout)
            if raw is grpc.aio.EOF:
                if context.cancelled():
                    raise asyncio.CancelledError
                return
            yield await read(raw)

    async def send(
        self,
        responses: AsyncGenerator[Message, Any],
        context: Context,
        turn: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """Send responses until there are no more.

        The next one is made once the one before has left: a caller that reads slowly has no more
        made for it than fit into HTTP/2's windows.

        Args:
            responses: makes them; closed at the end.
            context: the call's.
            turn: returns a context in which one response is made.

        Raises:
            RpcError: UNAVAILABLE if the stream is open for too long, or the server shuts down: the
                caller should continue on another stream. Or that of `responses`.
        """
        async with aclosing(responses):
            timeout = self._timeout(asyncio.get_running_loop().time() + self.max_seconds)
            try:
                async with timeout:
                    while True:
                        async with turn():
                            response = await anext(responses, None)
                        if response is None:
                            return
                        await context.write(response)
            except TimeoutError as error:
                if not timeout.expired():  # it is of the one who makes them
                    raise
                raise self._ended() from error
            finally:
                self._timeouts.discard(timeout)

    def close(self) -> None:
        """End every stream at once: before the next message, or in the middle of a response."""
        self._closed = True
        now = asyncio.get_running_loop().time()
        for timeout in self._timeouts:
            if not timeout.expired():  # else it ends by itself at this very moment
                timeout.reschedule(now)

    def _timeout(self, when: float) -> asyncio.Timeout:
        """Return a timeout at a time of the loop's clock, or at once after `close`."""
        timeout = asyncio.timeout_at(0 if self._closed else when)
        self._timeouts.add(timeout)
        return timeout

    def _ended(self, *, silent: bool = False) -> RpcError:
        reason = f"the stream was open for {self.max_seconds:g} s"
        if self._closed:
            reason = "this server shuts down"
        elif silent:
            reason = f"no message arrived for {self.max_silence:g} s"
        return unavailable(f"{reason}; continue on another stream", timedelta(0))
