"""The catalogue's changes since the releases were trained, as far as they are remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import structlog
from google.protobuf.message import DecodeError

from vireo.server.event_log.log import Entry
from vireo.server.features.keys import video_key
from vireo.server.recommend.catalogue.takedowns import Takedowns
from vireo.v1.log_pb2 import CatalogChange

log = structlog.get_logger()

_LABEL_BYTES = 48
"""What a label takes beside a release at most, see `LiveAttributes`, however short it is."""


@dataclass(frozen=True, slots=True)
class Change:
    """The last upsert of one video."""

    key: int
    position: int
    """In the log of the catalogue's changes; see `Overlay.position`."""
    video: bytes
    """The serialized `Video`; empty if it isn't kept."""
    size: int
    """Bytes that count for the bound."""


class Overlay:
    """The newest upserts, one a video, and the takedowns. Changed on one event loop alone."""

    def __init__(
        self,
        max_videos: int,
        max_bytes: int = 256 << 20,
        takedowns: Takedowns | None = None,
        *,
        contents: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start without a change.

        Args:
            max_videos: maximum upserted videos to remember, some 200 bytes each beside what is
                known of them.
            max_bytes: maximum bytes of what is known of them.
            takedowns: what is known of these; nothing if None.
            contents: whether to keep what is known of upserted videos.
            clock: Unix time in seconds, by which videos are published, and by which they age.
        """
        self.clock = clock
        self.takedowns = takedowns or Takedowns()
        self.position = 0
        """Position in the log up to which it has the changes, counted on from the last one if a log
        has lost its data and begun anew."""
        self.lost = 0
        """What to subtract from positions to have those in the log as it is now."""
        self.dropped = 0
        """Number of upserts that found no room: the oldest."""
        self.dropped_position = 0
        """Position of the newest upsert that was dropped."""
        self.max_videos = max_videos
        """Maximum number of upserted videos that are kept."""
        self._contents = contents
        self._max_bytes, self._bytes = max_bytes, 0
        self._upserts: dict[int, Change] = {}  # in the order of their positions
        self._unpublished: dict[int, float] = {}
        """When those upserted videos are published that weren't yet when they were taken in."""
        self._touched: list[int] = []

    @property
    def videos(self) -> int:
        """Number of upserted videos that are kept."""
        return len(self._upserts)

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in messages of CATALOG, in order."""
        for entry in entries:
            if entry.sequence + self.lost <= self.position:
                log.error("the catalogue's changes begin anew: the log lost those before")
                self.lost = self.position
            position = entry.sequence + self.lost
            try:
                change = CatalogChange.FromString(entry.data)
            except DecodeError as error:
                log.error("skipped a change of the catalogue", reason=str(error))
            else:
                self._put(change, position)
            self.position = position

    def take_takedowns(self, entries: Iterable[Entry]) -> None:
        """Take in messages of REMOVED, in order."""
        self._touched += self.takedowns.take(entries)

    def get(self, key: int) -> Change | None:
        """Return the last upsert of a video; None if there was none or it isn't kept."""
        return self._upserts.get(key)

    def left_out(self, keys: Collection[int]) -> set[int]:
        """Return those of some keys that are taken down, or upserted and not published yet."""
        found = self.takedowns.among(keys)
        if self._unpublished:
            now = self.clock()
            found.update(key for key in keys if self._unpublished.get(key, now) > now)
        return found

    def changed_after(self, key: int, position: int) -> bool:
        """Return whether a video changed after a position; if it was dropped, whether it may."""
        change = self.get(key)
        return (change.position if change else self.dropped_position) > position

    @property
    def keys(self) -> list[int]:
        """Keys of the upserted videos, in the order of their last upserts."""
        return [*self._upserts]

    def newly_touched(self) -> list[int]:
        """Return the keys of videos with any change since last asked, those dropped included."""
        touched, self._touched = self._touched, []
        return touched

    def _put(self, change: CatalogChange, position: int) -> None:
        video, key = change.video, video_key(change.video.video_id)
        self._forget(key)
        self._touched.append(key)
        if change.removed:  # REMOVED has its takedown
            return
        kept = video.SerializeToString() if self._contents else b""
        labels = len(video.tags) + sum(len(each.labels) for each in video.attributes)
        size = len(kept) + _LABEL_BYTES * labels if kept else 0
        self._bytes += size
        self._upserts[key] = Change(key, position, kept, size)
        published = video.published.seconds + video.published.nanos / 1e9  # 0 if unknown
        if published > self.clock():
            self._unpublished[key] = published
        while len(self._upserts) > self.max_videos or self._bytes > self._max_bytes:
            oldest = next(iter(self._upserts))
            self.dropped_position = self._upserts[oldest].position
            self._forget(oldest)
            self._touched.append(oldest)
            if not self.dropped:
                log.error("no room for all of the catalogue's changes", kept=self.videos)
            self.dropped += 1

    def _forget(self, key: int) -> None:
        self._unpublished.pop(key, None)
        change = self._upserts.pop(key, None)
        self._bytes -= change.size if change else 0
