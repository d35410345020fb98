"""Where a reader of a stream is: after which message of which log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import xxhash
from pydantic import PlainSerializer, PlainValidator

_TEXT = re.compile(r"(\d{1,20})(?:@([^@#\s]+))?(?:#([0-9a-f]{16}))?")


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
