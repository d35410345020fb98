"""With a server that says what the test wants: what is yielded when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

from nats.aio.msg import Msg

from vireo.server.event_log.nats_connection import Connection
from vireo.server.event_log.pull import pull

Heard = Callable[[Any], Awaitable[None]]


class _Message:
    """A message of a stream, or what the server says instead of one."""

    def __init__(self, position: int = 0, pending: int = 0, status: str = "") -> None:
        self.headers = {"Status": status} if status else None
        self.data = b""
        self.position, self.num_pending = position, pending

    @property
    def metadata(self) -> _Message:
        return self

    @property
    def sequence(self) -> _Message:
        return self

    @property
    def stream(self) -> int:
        return self.position

    @property
    def consumer(self) -> int:
        return self.position


class _Server:
    """A connection to a server, and its client."""

    def __init__(self, pending: int) -> None:
        self.pending, self.delivered = pending, 0
        self.lost = asyncio.Event()
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
        await self.say(_Message(self.delivered, self.pending))

    async def alive(self) -> None:
        await self.say(_Message(status="100"))

    async def say(self, message: _Message) -> None:
        await self.asked.wait()
        assert self._heard is not None
        await self._heard(message)


class _Reader:
    """Reads from the server all the time."""

    def __init__(self, server: _Server) -> None:
        self.yielded: asyncio.Queue[list[int]] = asyncio.Queue()
        self._server = server
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        connection = cast("Connection", self._server)
        async for some in pull(connection, "s", "x", 0, heartbeat=10.0):
            await self.yielded.put([_position(each) for each in some])

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _position(message: Msg) -> int:
    return message.metadata.sequence.stream


async def test_a_word_of_the_server_amid_pending_messages_isnt_the_end_of_them() -> None:
    server = _Server(pending=3)
    reader = _Reader(server)
    async with asyncio.timeout(30):
        await server.deliver()
        assert await reader.yielded.get() == [1]
        await server.alive()
        for position in (2, 3):
            await server.deliver()
            assert await reader.yielded.get() == [position]
        assert await reader.yielded.get() == []
        await server.alive()
        assert await reader.yielded.get() == []
    await reader.stop()


async def test_messages_that_retention_took_before_they_came_are_waited_for_no_longer() -> None:
    server = _Server(pending=2)
    reader = _Reader(server)
    async with asyncio.timeout(30):
        await server.deliver()
        assert await reader.yielded.get() == [1]
        server.pending = 0
        await server.alive()
        assert await reader.yielded.get() == []
    await reader.stop()
