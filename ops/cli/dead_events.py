"""Events that couldn't be applied to features: what stream DEAD holds, and which were replayed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer
from google.protobuf.message import DecodeError

from vireo.server.event_log.log import BEGIN, DEAD, REPLAYED, STATE, Entry, Position, Stream
from vireo.v1 import event_pb2, log_pb2

if TYPE_CHECKING:
    from vireo.server.event_log.jetstream import JetStreamLog


@dataclass(frozen=True)
class Letter:
    """A message of stream DEAD."""

    content: log_pb2.DeadEvents
    events: Sequence[event_pb2.Event]
    """The events that were set aside; none if they can't be parsed."""
    partition: str
    place: Position
    """Its position in DEAD; `content.position` is that of its events in the log."""
    replayed: bool


async def dead_letters(event_log: JetStreamLog, partitions: Iterable[str]) -> list[Letter]:
    """Return what is in DEAD, each partition's in order; name on stderr what can't be read."""
    letters = []
    for key in partitions:
        told = await _all_of(event_log, STATE, REPLAYED + key)
        replayed = Position.parse(told[-1].data.decode()) if told else BEGIN
        # Those of a log that was replaced since are none of this one.
        last = (await event_log.resume(DEAD, replayed)).after
        for entry in await _all_of(event_log, DEAD, key):
            try:
                content = log_pb2.DeadEvents.FromString(entry.data)
            except DecodeError:
                note_unreadable(entry)
                continue
            events = _parsed(content.recorded)
            letters.append(Letter(content, events, key, entry.position, entry.sequence <= last))
    return letters


async def mark_replayed(event_log: JetStreamLog, letters: Iterable[Letter]) -> None:
    """Remember in the log that these letters, and those before them, were replayed."""
    for partition, place in {each.partition: each.place for each in letters}.items():
        await event_log.append(STATE, REPLAYED + partition, str(place).encode())


def note_unreadable(entry: Entry) -> None:
    """Say on stderr that a message is left out."""
    typer.echo(f"the message at position {entry.sequence} can't be read: left out", err=True)


async def _all_of(event_log: JetStreamLog, stream: Stream, key: str) -> list[Entry]:
    """Return the messages of a key that are there now."""
    return [entry async for some in event_log.up_to_end(stream, key) for entry in some]


def _parsed(recorded: bytes) -> Sequence[event_pb2.Event]:
    try:
        return log_pb2.RecordedEvents.FromString(recorded).events
    except DecodeError:
        return ()
