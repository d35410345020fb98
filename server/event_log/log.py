"""What is asked of the log: ordered streams that are appended to and read from a position on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Protocol

import xxhash

from server.errors import VireoError
from server.event_log.position import BEGIN, Position, Start, fingerprint_of

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
"""What consumers tell: the keys are `trending.<partition>` and `progress.<partition>`; and up to
where `vireo events replay` has replayed DEAD: `replayed.<partition>`."""
STREAMS = (EVENTS, DEAD, CATALOG, REMOVED, STATE)


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


class EventLog(Protocol):
    """A log of streams. Use it from one event loop.

    Sequences are those of a stream, whatever the keys of its messages.
    """

    async def append(
        self, stream: Stream, key: str, data: bytes, once: str = "", *, traceparent: str = ""
    ) -> int:
        """Store a message and return its sequence: no crash of a process loses it from then on.

        Args:
            stream: where to.
            key: the message's key.
            data: the message, at most MAX_MESSAGE_BYTES.
            once: an id; if it was appended an hour ago or later, it isn't stored again.
            traceparent: comes along with the message, see `Entry`.

        Raises:
            LogAwayError: it may be stored or not; known within seconds.
            ValueError: the message is too large.
        """

    def read(
        self, stream: Stream, key: str = "", after: Position = BEGIN
    ) -> AsyncIterator[Entries]:
        """Yield the messages after a position, in order, as they come; without an end.

        Empty entries say that all that was there has been yielded: they come as soon as that is
        so, never before, and then whenever nothing new has come for some seconds. Their position is
        beyond messages of other keys, too. While the log is away it waits.

        Each time that it connects it resumes as `resume` says: a log that isn't the one that was
        read, or has lost messages which were, is read from its begin; messages that the log doesn't
        keep any more are logged as an error, and left out.

        Args:
            stream: what to read.
            key: read the messages of this key alone; all of the stream if empty.
            after: the position that was reached before.
        """

    async def resume(self, stream: Stream, stored: Position) -> Start:
        """Return where to go on in a stream as it is now.

        That is the begin if the position is one of another log, or is beyond the end, or if
        another message has its sequence; and if a compacted stream has replaced its message since,
        as nothing can be compared then. What a stream that isn't compacted keeps no longer is no
        mismatch: unread messages among it are `missing`.

        Raises:
            LogAwayError: the log can't be read now.
        """

    async def end(self, stream: Stream, key: str = "") -> int:
        """Return the sequence of the last message, 0 without one; raise LogAwayError."""

    async def usage(self, stream: Stream) -> tuple[int, int]:
        """Return the bytes that a stream has, and its maximum, 0 for none; raise LogAwayError."""

    async def delete(self, stream: Stream, sequence: int) -> None:
        """Delete a message for good, if it is there; raise LogAwayError."""

    async def close(self) -> None:
        """Close the connection."""


def check_size(data: bytes) -> None:
    """Raise ValueError if a message is too large for the log."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{len(data)} bytes are more than a message of the log may have")


def partition_of(viewer_id: str, partitions: int) -> int:
    """Return the partition of a viewer's events: the same in every process and for ever."""
    return xxhash.xxh3_64_intdigest(viewer_id.encode()) % partitions
