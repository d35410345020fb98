"""The catalogue's changes since the releases were trained, as far as they are remembered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

import structlog
from google.protobuf.message import DecodeError
from vireo.v1.log_pb2 import CatalogChange

from server.event_log.log import Entry
from server.features.keys import video_key

log = structlog.get_logger()

MAX_REMOVALS = 1_000_000
"""Removed videos that are remembered, some 200 bytes each."""


@dataclass(frozen=True, slots=True)
class Change:
    """The last change of one video."""

    key: int
    position: int
    """In the log of the catalogue's changes."""
    removed: bool
    video: bytes
    """The serialized `Video`; empty if it was removed, or isn't kept."""


class Overlay:
    """The last change of each video, at most so many. Changed on one event loop alone."""

    def __init__(self, max_videos: int, max_removals: int = MAX_REMOVALS) -> None:
        """Start without a change.

        Args:
            max_videos: maximum upserted videos to keep, some 400 bytes each; 0 keeps removals
                alone.
            max_removals: maximum removed videos to remember.
        """
        self.position = 0
        """Position in the log up to which it has the changes."""
        self.videos = 0
        """Number of upserted videos that are kept."""
        self.removals = 0
        """Number of removed videos that are remembered."""
        self.refused = 0
        """Number of changes that found no room."""
        self.unreadable = 0
        """Number of messages that aren't changes."""
        self.max_videos = max_videos
        """Maximum number of upserted videos that are kept."""
        self._max_removals = max_removals
        self._changes: dict[int, Change] = {}  # in the order of their positions

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in messages of the log, in order."""
        for entry in entries:
            self.position = entry.position
            try:
                change = CatalogChange.FromString(entry.data)
            except DecodeError:
                self.unreadable += 1
                continue
            video = b"" if change.removed else change.video.SerializeToString()
            key = video_key(change.video.video_id)
            self._put(Change(key, entry.position, change.removed, video))

    def get(self, key: int) -> Change | None:
        """Return the last change of a video; None if there was none or it isn't kept."""
        return self._changes.get(key)

    def since(self, position: int) -> list[Change]:
        """Return the changes after a position, in order. With 0 it is safe in any thread."""
        if position <= 0:
            return list(self._changes.values())
        newest = takewhile(
            lambda change: change.position > position, reversed(self._changes.values())
        )
        return list(newest)[::-1]

    def _put(self, change: Change) -> None:
        old = self._changes.pop(change.key, None)
        if old is not None:
            self._count(old, -1)
        full = (
            self.removals >= self._max_removals
            if change.removed
            else self.videos >= self.max_videos
        )
        if full:
            if change.removed or self.max_videos:
                self._refuse(change)
            if old is None or change.removed:
                return
            # Undoes a removal, or an earlier state, even if it can't be kept itself.
            change = Change(change.key, change.position, False, b"")
        self._count(change, 1)
        self._changes[change.key] = change

    def _count(self, change: Change, by: int) -> None:
        if change.removed:
            self.removals += by
        elif change.video:
            self.videos += by

    def _refuse(self, change: Change) -> None:
        if not self.refused:
            log.error(
                "no room for a change of the catalogue; train a release that has the others",
                removed=change.removed,
                videos=self.videos,
                removals=self.removals,
            )
        self.refused += 1
