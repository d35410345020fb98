"""The catalogue's changes since the releases were trained, as far as they are remembered."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from itertools import takewhile

import structlog
from google.protobuf.message import DecodeError
from vireo.v1.log_pb2 import CatalogChange

from server.event_log.log import Entry
from server.event_log.position import Position
from server.features.keys import video_key

log = structlog.get_logger()

MAX_REMOVALS = 1_000_000
"""Removed videos that are remembered, some 200 bytes each."""


@dataclass(frozen=True, slots=True)
class Change:
    """The last change of one video."""

    key: int
    position: int
    """In the log of the catalogue's changes; see `Overlay.position`."""
    removed: bool
    video: bytes
    """The serialized `Video`; empty if it was removed, or isn't kept."""


class Overlay:
    """The last change of each video: the newest so many. Changed on one event loop alone."""

    def __init__(
        self, max_videos: int, max_removals: int = MAX_REMOVALS, *, contents: bool = True
    ) -> None:
        """Start without a change.

        Args:
            max_videos: maximum upserted videos to remember, some 300 bytes each, or 200 without
                what is known of them; 0 remembers removals alone.
            max_removals: maximum removed videos to remember.
            contents: whether to keep what is known of upserted videos.
        """
        self.position = 0
        """Position in the log up to which it has the changes, counted on from the last one if a log
        has lost its data and begun anew. To miss no change in another thread, read it before
        `since`."""
        self.log = ""
        """Which log that is; see `Position.log`."""
        self.lost = 0
        """What to subtract from positions to have those in the log as it is now."""
        self.dropped = 0
        """Number of changes that found no room: of upserts the oldest, of removals the newest."""
        self.unreadable = 0
        """Number of messages that aren't changes."""
        self.dropped_position = 0
        """Position of the newest upsert that was dropped."""
        self.max_videos = max_videos
        """Maximum number of upserted videos that are kept."""
        self._contents = contents
        self._max_removals = max_removals
        # In the order of their positions.
        self._upserts: dict[int, Change] = {}
        self._removals: dict[int, Change] = {}
        self._dropped: list[int] = []

    @property
    def videos(self) -> int:
        """Number of upserted videos that are kept."""
        return len(self._upserts)

    @property
    def removals(self) -> int:
        """Number of removed videos that are remembered."""
        return len(self._removals)

    @property
    def removed_keys(self) -> Set[int]:
        """Keys of the removed videos: now, and after later changes too."""
        return self._removals.keys()

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in messages of the log, in order."""
        for entry in entries:
            self.log = entry.log
            if entry.sequence + self.lost <= self.position:
                log.error("the catalogue's changes begin anew: the log lost those before")
                self.lost = self.position
            position = entry.sequence + self.lost
            try:
                change = CatalogChange.FromString(entry.data)
            except DecodeError:
                self.unreadable += 1
            else:
                kept = self._contents and not change.removed
                video = change.video.SerializeToString() if kept else b""
                key = video_key(change.video.video_id)
                self._put(Change(key, position, change.removed, video))
            self.position = position  # last: who reads it in another thread finds the change

    def get(self, key: int) -> Change | None:
        """Return the last change of a video; None if there was none or it isn't kept."""
        return self._removals.get(key) or self._upserts.get(key)

    def merged(self, release: Position) -> int:
        """Return the position up to which a release has the changes; 0 if that of another log."""
        known = release.shares_log(Position(log=self.log)) and release.sequence <= self.position
        return release.sequence if known else 0

    def changed_after(self, key: int, release: Position) -> bool:
        """Return whether a video changed after a release had all changes up to a position.

        What was dropped counts as changed if it may have. With max_videos 0 nothing is known of
        upserts.
        """
        change = self.get(key)
        return (change.position if change else self.dropped_position) > self.merged(release)

    def since(self, position: int) -> list[Change]:
        """Return the changes after a position, in order. With 0 it is safe in any thread."""
        changes: list[Change] = []
        for kind in (self._upserts, self._removals):
            if position <= 0:
                changes += list(kind.values())
            else:
                changes += takewhile(lambda each: each.position > position, reversed(kind.values()))
        return sorted(changes, key=lambda each: each.position)

    def newly_dropped(self) -> list[int]:
        """Return the keys of the changes that were dropped since this was last asked."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def _put(self, change: Change) -> None:
        self._removals.pop(change.key, None)
        self._upserts.pop(change.key, None)
        if change.removed:
            if len(self._removals) < self._max_removals:
                self._removals[change.key] = change
            else:
                self._drop(change.key, "removals")
        elif self.max_videos:
            if len(self._upserts) >= self.max_videos:
                oldest = next(iter(self._upserts))
                self.dropped_position = self._upserts.pop(oldest).position
                self._drop(oldest, "videos")
            self._upserts[change.key] = change

    def _drop(self, key: int, kind: str) -> None:
        self._dropped.append(key)
        if not self.dropped:
            log.error("no room for all of the catalogue's changes", kind=kind, kept=self.videos)
        self.dropped += 1
