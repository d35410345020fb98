"""Streams of messages from callers, and of responses: their number and time are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from vireo.server.rpc.errors import RpcError, ShedError, ShedReason, unavailable
from vireo.server.rpc.reading import Context

MAX_STREAM_SECONDS = 300.0
"""Maximum seconds of a stream, for example a health watch. Its client opens it again."""
MAX_SILENCE_SECONDS = 30.0
"""Maximum seconds between two messages of a caller's stream."""
STREAM_RETRY = timedelta(milliseconds=100)
"""Delay before a stream is opened again: many end soon."""


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
            silent = clock() + self.max_silence
            timeout = self._timeout(min(silent, ends))
            try:
                async with timeout:
                    raw = await context.read()
            except TimeoutError as error:
                # Not by the clock: a timeout may end a moment before its time.
                raise self._ended(silent=silent < ends) from error
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


class Places:
    """A number of places. Use it from one event loop."""

    def __init__(self, max_places: int, retry_after: timedelta) -> None:
        """Start with all places free; who gets none is asked to come back after a while."""
        self.max_places, self._retry_after = max_places, retry_after
        self._held: dict[str, list[asyncio.Timeout]] = {}
        """By caller, the oldest first."""

    @property
    def taken(self) -> int:
        """Number of places that are taken."""
        return sum(map(len, self._held.values()))

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Hold a place for a caller during the block.

        If none is free, the caller who has the most loses the latest, unless the others would then
        have no fewer than it.

        Raises:
            RpcError: RESOURCE_EXHAUSTED if there is none for it; UNAVAILABLE, in the middle of the
                block, if another caller needs the place.
        """
        if self.taken >= self.max_places:
            fullest = max(self._held, key=lambda each: len(self._held[each]))
            if len(self._held[fullest]) < len(self._held.get(caller, ())) + 2:
                raise ShedError(ShedReason.STREAMS, self._retry_after)
            self._leave(fullest, lost := self._held[fullest][-1])
            lost.reschedule(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(None) as mine:
                self._held.setdefault(caller, []).append(mine)
                try:
                    yield
                finally:
                    self._leave(caller, mine)
        except TimeoutError as error:
            if not mine.expired():  # it is of the block
                raise
            raise unavailable(
                "another caller needs the place; go on later", self._retry_after
            ) from error

    def _leave(self, caller: str, mine: asyncio.Timeout) -> None:
        if mine in self._held.get(caller, ()):
            self._held[caller].remove(mine)
            if not self._held[caller]:
                del self._held[caller]
