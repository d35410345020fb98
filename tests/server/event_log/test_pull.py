"""What a reader yields when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest
from nats.aio.msg import Msg

from tests.builders.nats import RunningNats
from vireo.server.event_log import connection
from vireo.server.event_log.connection import Connection, pull
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS

Reading = AsyncGenerator[Sequence[Msg], None]
INBOX = "inbox.of-the-reader"


@asynccontextmanager
async def amid_three(
    log: JetStreamLog, key: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Reading, Connection]]:
    """Yield a reader that has two of a key's three messages, and will ask for the third."""
    for _ in range(3):
        await log.append(EVENTS, key, b"x")
    assert log._connection is not None
    monkeypatch.setattr(connection, "_BATCH", 2)
    monkeypatch.setattr(log._connection.client, "new_inbox", lambda: INBOX)
    found = pull(log._connection, "vireo_events", f"vireo.events.{key}", 0, heartbeat=0.5)
    async with asyncio.timeout(30), aclosing(found):
        taken = 0
        while taken < 2:
            taken += len(await anext(found))
        yield found, log._connection


async def test_a_word_of_the_server_amid_pending_messages_isnt_the_end_of_them(
    log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with amid_three(log, "amid", monkeypatch) as (reading, server):
        await server.client.publish(INBOX, headers={"Status": "408"})
        await server.client.flush()
        assert [len(await anext(reading)) for _ in range(2)] == [1, 0]
        assert not await anext(reading), "then the server says that nothing has come"


async def test_messages_that_retention_took_before_they_came_are_waited_for_no_longer(
    log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with amid_three(log, "taken", monkeypatch) as (reading, server):
        asked = json.dumps({"filter": "vireo.events.taken"}).encode()
        await server.ask("$JS.API.STREAM.PURGE.vireo_events", asked)
        assert not await anext(reading)


async def test_a_server_that_is_silent_on_a_connection_that_lives_is_given_up(
    nats: RunningNats, log: JetStreamLog
) -> None:
    assert await log.end(EVENTS, "silent") == 0  # which connects
    assert log._connection is not None
    found = pull(log._connection, "vireo_events", "vireo.events.silent", 0, heartbeat=0.1)
    async with asyncio.timeout(30), aclosing(found):
        assert not await anext(found)
        nats.hang()
        try:
            with pytest.raises(TimeoutError):
                await anext(found)
            assert log._connection.usable
        finally:
            nats.go_on()
