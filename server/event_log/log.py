"""The streams of the log, their messages, and positions: after which message a reader is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import xxhash
from pydantic import PlainSerializer, PlainValidator

from vireo.server.errors import NoAnswerError

_TEXT = re.compile(r"(\d{1,20})(?:@([^@#\s]+))?(?:#([0-9a-f]{16}))?")
MAX_MESSAGE_BYTES = 1_000_000
"""Maximum size of a message: NATS takes 1 MiB with all that it adds, unless told else."""


class LogAwayError(NoAnswerError):
    """The log can't be reached, or stored nothing; the same append may be repeated."""


@dataclass(frozen=True)
class Stream:
    """A declared stream."""

    name: str
    compacted: bool
    """Whether only the last message of each key is kept."""
    consumed: bool = False
    """Whether messages are deleted once they are archived. The stream is made when it is appended
    to or read first."""


EVENTS = Stream("events", compacted=False)
"""`RecordedEvents`; the key is the partition."""
DEAD = Stream("dead", compacted=False)
"""Events that couldn't be applied, with the reason; the key is the partition."""
CATALOG = Stream("catalog", compacted=True)
"""`CatalogChange`; the key is the video's, in hexadecimal. A removal erases what is known of it."""
REMOVED = Stream("removed", compacted=True)
"""`CatalogChange` of each video that was taken down, or restored since; keys are those of CATALOG.
It is small, so that processes read it whole before they serve."""
SLATES = Stream("slates", compacted=False, consumed=True)
"""`RecordedSlates`; the key is the partition, as of EVENTS."""
STATE = Stream("state", compacted=True)
"""What consumers publish, and up to where `vireo events replay` has replayed DEAD: the keys are
TRENDING, PROGRESS or REPLAYED, each with the partition, or ARCHIVED with "events." or "slates." and
the partition: the position up to which that is archived."""
TRENDING, PROGRESS, REPLAYED, ARCHIVED = "trending.", "progress.", "replayed.", "archived."
STREAMS = (EVENTS, DEAD, CATALOG, REMOVED, STATE, SLATES)


@dataclass(frozen=True)
class Position:
    """A place in a stream. A sequence alone would hold for any log, also for one that was replaced.

    `str` and `parse` are its form in files and messages: `sequence@log#fingerprint`.
    """

    sequence: int = 0
    """Sequence of the last message that was read, from 1; 0 for the begin."""
    log: str = ""
    """When the stream was created, as JetStream states it; empty if unknown."""
    fingerprint: int | None = None
    """`fingerprint_of` that message; None if unknown."""

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        log = f"@{self.log}" if self.log else ""
        return f"{self.sequence}{log}" + (
            "" if self.fingerprint is None else f"#{self.fingerprint:016x}"
        )

    @staticmethod
    def parse(text: str) -> Position:
        """Return the position of a text.

        Raises:
            ValueError: it is none.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} isn't a position in a log, sequence@log#fingerprint")
        sequence, log, fingerprint = found.groups()
        return Position(int(sequence), log or "", int(fingerprint, 16) if fingerprint else None)

    def shares_log(self, other: Position) -> bool:
        """Return whether both may be of one log: an unknown one may be any."""
        return not self.log or not other.log or self.log == other.log

    def follows(self, other: Position) -> bool:
        """Return whether it is after another one of the same log."""
        return self.shares_log(other) and self.sequence > other.sequence


StoredPosition = Annotated[
    Position,
    PlainValidator(lambda each: each if isinstance(each, Position) else Position.parse(each)),
    PlainSerializer(str, return_type=str),
]
"""A position as a document's field: its text."""
BEGIN = Position()
"""The begin of whichever log is there."""


@dataclass(frozen=True)
class Start:
    """Where to read on in a stream as it is now; see `JetStreamLog.resume`."""

    after: int
    """Sequence after which to read; 0 if the position is none of this log."""
    missing: range = range(0)
    """Sequences after it that the log doesn't keep any more, whatever their keys."""
    kept_since: str = ""
    """When the first message that is kept was stored, RFC 3339."""
    replaced: int = 0
    """Sequence of the position if it can't be compared: a later message has its key."""


def fingerprint_of(data: bytes) -> int:
    """Return what tells a message from others that may have its sequence: 64 bits of its data."""
    return xxhash.xxh3_64_intdigest(data)


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
    stored_at: float = 0.0
    """When the log stored it, Unix seconds."""

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


def partition_of(viewer_id: str, partitions: int) -> int:
    """Return the partition of a viewer's events: the same in every process and for ever."""
    return xxhash.xxh3_64_intdigest(viewer_id.encode()) % partitions
