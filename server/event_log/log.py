"""What is asked of the log: ordered streams that are appended to and read from a position on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import xxhash

from server.errors import VireoError

MAX_MESSAGE_BYTES = 1_000_000
"""Maximum size of a message: NATS and Kafka take 1 MiB with all that they add, unless told else."""


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
"""`CatalogChange`; the key is the video's, in hexadecimal."""
STATE = Stream("state", compacted=True)
"""What consumers tell: the keys are `trending.<partition>` and `progress.<partition>`; and up to
where `vireo events replay` has replayed DEAD: `replayed.<partition>`."""
STREAMS = (EVENTS, DEAD, CATALOG, STATE)


@dataclass(frozen=True)
class Entry:
    """A message of a stream."""

    position: int
    """Increases within a stream, from 1."""
    key: str
    data: bytes
    traceparent: str = ""
    """W3C trace context of the call that appended it, if its trace is sampled."""


class EventLog(Protocol):
    """A log of streams. Use it from one event loop.

    Name the key to read a stream that isn't compacted, or its end: in Kafka each partition has
    positions of its own. Positions of a compacted stream are those of all its keys.
    """

    async def append(
        self, stream: Stream, key: str, data: bytes, once: str = "", *, traceparent: str = ""
    ) -> int:
        """Store a message and return its position: no crash of a process loses it from then on.

        Args:
            stream: where to.
            key: the message's key.
            data: the message, at most MAX_MESSAGE_BYTES.
            once: an id; if it was appended an hour ago or later, it isn't stored again (Kafka
                stores it again).
            traceparent: comes along with the message, see `Entry`.

        Raises:
            LogAwayError: it may be stored or not; known within seconds.
            ValueError: the message is too large.
        """

    def read(self, stream: Stream, key: str = "", after: int = 0) -> AsyncIterator[Sequence[Entry]]:
        """Yield the messages after a position, in order, as they come; without an end.

        An empty sequence says that all that was there has been yielded: one comes as soon as that
        is so, never before, and then whenever nothing new has come for some seconds. While the log
        is away it waits. A log that has lost messages which were read is read again from its begin:
        positions go back, once.

        Args:
            stream: what to read.
            key: read the messages of this key alone; all of a compacted stream if empty.
            after: the last position that was read before.
        """

    async def end(self, stream: Stream, key: str = "") -> int:
        """Return the position of the last message, 0 without one; raise LogAwayError.

        In Kafka it is that of the stream's last message if the stream is compacted, whatever `key`.
        """

    async def usage(self, stream: Stream) -> tuple[int, int]:
        """Return the bytes that a stream has, and its maximum, 0 for none; raise LogAwayError."""

    async def delete(self, stream: Stream, position: int) -> None:
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
