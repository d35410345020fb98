"""The streams of the log, and their messages: appended, and read from a position on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import xxhash

from vireo.server.errors import VireoError
from vireo.server.event_log.position import Position, fingerprint_of
from vireo.v1.event_pb2 import EventKind

MAX_MESSAGE_BYTES = 1_000_000
"""Maximum size of a message: NATS takes 1 MiB with all that it adds, unless told else."""


class LogAwayError(VireoError):
    """The log can't be reached, or stored nothing; the same append may be repeated."""


@dataclass(frozen=True)
class Stream:
    """A declared stream."""

    name: str
    compacted: bool
    """Whether only the last message of each key is kept."""


EVENTS = Stream("events", compacted=False)
"""`RecordedEvents`; the key is the partition."""
DEAD = Stream("dead", compacted=False)
"""Events that couldn't be applied, with the reason; the key is the partition."""
CATALOG = Stream("catalog", compacted=True)
"""`CatalogChange`; the key is the video's, in hexadecimal. A removal erases what is known of it."""
REMOVED = Stream("removed", compacted=True)
"""`CatalogChange` of each video that was taken down, or restored since; keys are those of CATALOG.
It is small, so that processes read it whole before they serve."""
STATE = Stream("state", compacted=True)
"""What consumers publish, and up to where `vireo events replay` has replayed DEAD: the keys are
TRENDING, PROGRESS or REPLAYED, each with the partition."""
TRENDING, PROGRESS, REPLAYED = "trending.", "progress.", "replayed."
STREAMS = (EVENTS, DEAD, CATALOG, REMOVED, STATE)
EVENT_KINDS = {number: name[len("EVENT_KIND_") :].lower() for name, number in EventKind.items()}
"""Names of the kinds of events in metrics, by their numbers, for example "play"."""


@dataclass(frozen=True)
class Entry:
    """A message of a stream."""

    sequence: int
    """Increases within a stream, from 1."""
    key: str
    data: bytes
    traceparent: str = ""
    """W3C trace context of the call that appended it, if its trace is sampled."""
    log: str = ""
    """When the stream was created; see `Position.log`."""

    @property
    def position(self) -> Position:
        """The position after it."""
        return Position(self.sequence, self.log, fingerprint_of(self.data))


class Entries(tuple[Entry, ...]):
    """Messages as they came, and where that brings their reader."""

    position: Position

    def __new__(cls, entries: Iterable[Entry], position: Position) -> Entries:
        """Return some messages, in order, with the position after them and what is before them."""
        made = super().__new__(cls, entries)
        made.position = position
        return made


def check_size(data: bytes) -> None:
    """Raise ValueError if a message is too large for the log."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{len(data)} bytes are more than a message of the log may have")


def partition_of(viewer_id: str, partitions: int) -> int:
    """Return the partition of a viewer's events: the same in every process and for ever."""
    return xxhash.xxh3_64_intdigest(viewer_id.encode()) % partitions
