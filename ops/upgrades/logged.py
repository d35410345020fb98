"""What the log of events holds: the last message of each kind, as this build parses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError, Message

from vireo.ops.upgrades.documents import message_fields, unknown_fields
from vireo.ops.upgrades.held import Held, Part
from vireo.ops.upgrades.this_build import CATALOG as CHANGES
from vireo.ops.upgrades.this_build import DEAD as DEAD_EVENTS
from vireo.ops.upgrades.this_build import EVENTS as EVENT_MESSAGES
from vireo.ops.upgrades.this_build import KINDS, PROGRESS, TRENDING
from vireo.server.event_log.log import (
    CATALOG,
    DEAD,
    EVENTS,
    REMOVED,
    STATE,
    Entry,
    LogAwayError,
    Stream,
)
from vireo.server.event_log.position import Position
from vireo.server.event_log.up_to_end import up_to_end
from vireo.v1 import event_pb2, log_pb2

if TYPE_CHECKING:
    from vireo.server.event_log.jetstream import JetStreamLog

_SECONDS = 10.0
"""Maximum seconds to wait for each message."""


async def logged(event_log: JetStreamLog, partitions: int) -> Part:
    """Return the last messages of the streams.

    Args:
        event_log: the log.
        partitions: number of partitions of the events.
    """
    try:
        async with asyncio.timeout(_SECONDS * (1 + partitions)):
            held = [each async for each in _held(event_log, partitions)]
    except (LogAwayError, TimeoutError) as error:
        return Part(name="log", away=str(error) or "the log doesn't answer")
    return Part(name="log", held=tuple(held))


async def _held(event_log: JetStreamLog, partitions: int) -> AsyncIterator[Held]:
    for partition in range(partitions):
        key = str(partition)
        if entry := await _last(event_log, EVENTS, key):
            recorded = log_pb2.RecordedEvents()
            yield _parsed(f"{EVENTS.name}.{key}", EVENT_MESSAGES, entry, recorded)
            names = event_pb2.EventKind.DESCRIPTOR.values_by_number
            kinds = {each.kind for each in recorded.events}
            fields = [names[each].name if each in names else str(each) for each in sorted(kinds)]
            yield Held(where=f"{EVENTS.name}.{key}", format=KINDS, fields=tuple(fields))
        if entry := await _last(event_log, DEAD, key):
            yield _parsed(f"{DEAD.name}.{key}", DEAD_EVENTS, entry, log_pb2.DeadEvents())
    for stream in (CATALOG, REMOVED):
        if entry := await _last(event_log, stream):
            yield _parsed(stream.name, CHANGES, entry, log_pb2.CatalogChange())
    if not await event_log.end(STATE):
        return
    async for entry in (each async for some in up_to_end(event_log, STATE) for each in some):
        kind = entry.key.partition(".")[0]
        where = f"{STATE.name}.{entry.key}"
        if kind == "trending":
            yield _parsed(where, TRENDING, entry, log_pb2.Trending())
        elif kind == "progress":
            yield _parsed(where, PROGRESS, entry, log_pb2.ConsumerProgress())


async def _last(event_log: JetStreamLog, stream: Stream, key: str = "") -> Entry | None:
    """Return the last message of a stream; None if it is empty."""
    end = await event_log.end(stream, key)
    if not end:
        return None
    async with aclosing(event_log.read(stream, key, Position(end - 1))) as reading:  # type: ignore[type-var]
        async for entries in reading:
            return entries[-1] if entries else None
    return None


def _parsed(where: str, name: str, entry: Entry, message: Message) -> Held:
    """Return a message that was parsed into `message`, with the fields that it doesn't know."""
    try:
        message.ParseFromString(entry.data)
    except DecodeError as error:
        return Held(where=where, format=name, problem=f"it can't be parsed: {error}")
    names = message_fields(message.DESCRIPTOR)  # type: ignore[arg-type]
    known = [each for each in names if _has(message, each)]
    unknown = dict.fromkeys(unknown_fields(message))
    return Held(where=where, format=name, fields=(*known, *unknown))


def _has(message: Message, path: str) -> bool:
    name, _, rest = path.partition(".")
    for field, value in message.ListFields():
        if field.name == name:
            if not rest:
                return True
            return any(_has(each, rest) for each in (value if field.is_repeated else [value]))
    return False
