"""With a server that says what the test wants: what is yielded when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from vireo.server.event_log.connection import Connection, pull

Heard = Callable[[Any], Awaitable[None]]


def _message(position: int = 0, pending: int = 0, status: str = "") -> Any:
    """A message of a stream, or what the server says instead of one."""
    sequence = SimpleNamespace(stream=position, consumer=position)
    metadata = SimpleNamespace(sequence=sequence, num_pending=pending)
    headers = {"Status": status} if status else None
    return SimpleNamespace(headers=headers, metadata=metadata)


class _Server:
    """A connection to a server, and its client."""

    def __init__(self, pending: int) -> None:
        self.pending, self.delivered = pending, 0
        self.lost = asyncio.get_running_loop().create_future()
        self.client = self
        self.asked = asyncio.Event()
        self._heard: Heard | None = None

    async def ask(self, _: str, __: bytes = b"") -> dict[str, Any]:
        delivered = {"consumer_seq": self.delivered}
        return {"name": "n", "num_pending": self.pending, "delivered": delivered}

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, _: str, cb: Heard) -> _Server:
        self._heard = cb
        return self

    async def unsubscribe(self) -> None:
        self._heard = None

    async def publish(self, _: str, request: bytes, reply: str) -> None:
        assert json.loads(request)["batch"]
        assert reply == "inbox"
        self.asked.set()

    async def deliver(self) -> None:
        self.delivered, self.pending = self.delivered + 1, self.pending - 1
        await self.say(_message(self.delivered, self.pending))

    async def alive(self) -> None:
        await self.say(_message(status="100"))

    async def say(self, message: Any) -> None:
        await self.asked.wait()
        assert self._heard is not None
        await self._heard(message)


@asynccontextmanager
async def _reading(server: _Server) -> AsyncIterator[Callable[[], Awaitable[list[int]]]]:
    """Read from the server all the time; yield what returns the positions that are yielded next."""
    yielded: asyncio.Queue[list[int]] = asyncio.Queue()

    async def read() -> None:
        async for some in pull(cast("Connection", server), "s", "x", 0, heartbeat=10.0):
            await yielded.put([each.metadata.sequence.stream for each in some])

    task = asyncio.create_task(read())
    async with asyncio.timeout(30):
        yield yielded.get
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_word_of_the_server_amid_pending_messages_isnt_the_end_of_them() -> None:
    server = _Server(pending=3)
    async with _reading(server) as yielded:
        await server.deliver()
        assert await yielded() == [1]
        await server.alive()
        for position in (2, 3):
            await server.deliver()
            assert await yielded() == [position]
        assert await yielded() == []
        await server.alive()
        assert await yielded() == []


async def test_messages_that_retention_took_before_they_came_are_waited_for_no_longer() -> None:
    server = _Server(pending=2)
    async with _reading(server) as yielded:
        await server.deliver()
        assert await yielded() == [1]
        server.pending = 0
        await server.alive()
        assert await yielded() == []
