"""Appends to the log, whatever becomes of a server, and reads it as far as a test wants."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS, Entry, LogAwayError, Position, Stream

_SECONDS = 60.0


async def append(log: JetStreamLog, key: str, data: bytes, dedup_id: str) -> int:
    """Append an event as a caller does: the same again until it is acknowledged."""
    async with asyncio.timeout(_SECONDS):
        while True:
            try:
                return await log.append(EVENTS, key, data, dedup_id)
            except LogAwayError:
                await asyncio.sleep(0.05)


async def take(
    log: JetStreamLog,
    stream: Stream,
    key: str = "",
    after: int | Position = 0,
    count: int | None = None,
) -> list[Entry]:
    """The first messages after a position; all that are there without a count."""
    taken: list[Entry] = []
    place = Position(after) if isinstance(after, int) else after
    async with asyncio.timeout(_SECONDS), aclosing(log.read(stream, key, place)) as some:
        async for entries in some:
            taken += entries
            if (not entries) if count is None else len(taken) >= count:
                return taken
    raise AssertionError("reading has no end")
