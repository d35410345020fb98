"""Sends the responses of streams: one at a time, each when there is nothing more urgent to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message

from server.rpc.errors import RpcError, unavailable
from server.rpc.reading import Context
from server.rpc.standard import MAX_STREAM_SECONDS


class ServerStreams:
    """The streams of responses that a server sends. Use it from one event loop."""

    def __init__(self) -> None:
        """Start without streams."""
        self.max_seconds = MAX_STREAM_SECONDS
        self._open: set[asyncio.Timeout] = set()
        self._closed = False

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
        clock = asyncio.get_running_loop().time
        async with aclosing(responses):
            try:
                async with asyncio.timeout(self.max_seconds) as timeout:
                    self._open.add(timeout)
                    if self._closed:
                        timeout.reschedule(clock())
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
                self._open.discard(timeout)

    def close(self) -> None:
        """End every stream at once, also in the middle of a response."""
        self._closed = True
        now = asyncio.get_running_loop().time()
        for timeout in self._open:
            if not timeout.expired():
                timeout.reschedule(now)

    def _ended(self) -> RpcError:
        reason = f"the stream was open for {self.max_seconds:g} s"
        if self._closed:
            reason = "this server shuts down"
        return unavailable(f"{reason}; continue on another stream", timedelta(0))
