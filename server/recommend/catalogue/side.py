"""Videos of the catalogue's overlay that a release doesn't have, or has with other content."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.event_log.log import Position
from vireo.server.features.context import language_id
from vireo.server.features.keys import VideoRows, video_key
from vireo.server.features.looked_up import Vectors, looked_up
from vireo.server.features.model_inputs import (
    LIKE_PRIOR,
    VIDEO_FEATURES,
    video_features,
)
from vireo.server.recommend.candidates import best
from vireo.server.recommend.catalogue.attributes import ChangedAttributes
from vireo.server.recommend.catalogue.overlay import Change, Overlay
from vireo.server.recommend.catalogue.placement import Placement
from vireo.server.recommend.catalogue.trends import Trends
from vireo.server.recommend.filters.declared import Declared
from vireo.v1.catalog_pb2 import Video

log = structlog.get_logger()

BATCH = 32
"""Videos that are placed at once, in one to two milliseconds."""
_PART = 256
"""Changes that a new table takes in at once."""
_DAY = 86_400.0


@dataclass(frozen=True)
class KnownVideos:
    """What a side table needs of its release of n videos."""

    rows: VideoRows
    vectors: Vectors
    """float32[n, d] or float16[n, d]."""
    position: Position
    """Position in the log of the catalogue's changes up to which the release has them."""
    placement: Placement
    features: Float32Array | None = None
    """VIDEO_FEATURES, float32[n, f], which ranking needs."""
    creators: Int64Array | None = None
    """Key of each video's creator, -1 if unknown, int64[n], which ranking needs."""
    declared: Declared | None = None
    """Attributes that filters need; None if nothing is filtered."""


class Follower(Protocol):
    """What follows the log for tables."""

    @property
    def overlay(self) -> Overlay:
        """The catalogue's changes."""

    @property
    def trends(self) -> Trends:
        """What is trending."""

    def complete(self, table: SideTable, folder: Path) -> SideTable:
        """Bring the table of a release in `folder` up to date, and keep it so while it is used."""


class SideTable:
    """Vectors and the like of m videos, beside a release's tables. Use it from one thread.

    Rows are used again: they are valid until the next change. A release's own video whose content
    changed has a row here too; it keeps what its watches taught, and stays where it is in the
    release's index.
    """

    def __init__(
        self,
        overlay: Overlay,
        known: KnownVideos,
        *,
        ranked: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start without a change.

        Args:
            overlay: the catalogue's changes.
            known: the release's part.
            ranked: whether to keep content vectors, which only ranking needs.
            clock: Unix time in seconds, for videos' ages.
        """
        self.overlay, self.known, self._clock = overlay, known, clock
        self.merged = known.position.sequence
        """Sequence up to which the release has the changes; see `Live.merged`."""
        self._position = 0
        self._waiting: deque[Change] = deque()
        self._free: list[int] = []
        # Pages that nothing was written to take no memory.
        size, room = known.vectors.shape[1], overlay.max_videos
        self.places: dict[int, int] = {}
        """Row of each key."""
        self.count = 0
        """Number of rows, unused ones included."""
        self.new = np.zeros(room, np.bool_)
        """Whether each row is that of a new video, bool[room]; as in all columns, `count` of them.
        The others are unused, or of changed videos."""
        self.keys = np.zeros(room, np.int64)
        self.vectors = np.zeros((room, size), np.float32)
        self.content = np.zeros((room, size if ranked else 0), np.float32)
        self.features = np.zeros((room, len(VIDEO_FEATURES)), np.float32)
        """VIDEO_FEATURES of unwatched videos."""
        self.creators = np.zeros(room, np.int64)
        """Key of each creator, -1 if unknown."""
        self.languages = np.zeros(room, np.int16)
        """`language_id` of each, 0 if unknown."""
        self.own_rows = np.zeros(room, np.int64)
        """The release's row of a changed video; -1 of a new one."""
        self.removed = np.zeros(len(known.vectors), np.bool_)
        """Whether each of the release's videos is removed, bool[n]."""
        self.removed_rows = np.zeros(0, np.int64)
        """Rows of those, int64[r]."""
        self.attributes = ChangedAttributes(known.declared, room) if known.declared else None
        """Those of new and changed videos, placed or not; None if nothing is filtered."""
        self.slots = np.zeros(room, np.int64)
        """Place in `attributes` of each row."""
        self.unplaced: set[int] = set()
        """Keys of the videos that wait for another release, since this one can't place them."""
        self.changed = 0
        """Number of rows of the release's own videos."""

    @property
    def waiting(self) -> int:
        """Number of videos that wait for their place."""
        return len(self._waiting)

    def catch_up(self) -> Iterator[None]:
        """Take in all takedowns and upserts as they are now, part by part.

        `refresh` and `take_changes` may be called between two parts.
        """
        rows = self.known.rows.find(self.overlay.takedowns.keys)
        self.removed_rows = np.sort(rows[rows >= 0])
        self.removed[self.removed_rows] = True
        changes, self._position = self.overlay.since(0), self.overlay.position
        for begin in range(0, len(changes), _PART):
            self._wait_for_places(changes[begin : begin + _PART])
            yield

    def take_changes(self) -> None:
        """Take in the overlay's upserts: they wait for `place_some`."""
        changes = self.overlay.since(self._position)
        self._position = self.overlay.position
        if changes:
            self._wait_for_places(changes)

    def refresh(self, keys: Sequence[int]) -> None:
        """Take in that videos were taken down or restored, or that the overlay dropped them."""
        down = self.overlay.takedowns.among(keys)
        rows = self.known.rows.find(np.array(keys, np.int64))
        for key, row in zip(keys, rows.tolist(), strict=True):
            self._drop(key)
            self.unplaced.discard(key)
            if self.attributes is not None:
                self.attributes.drop(key)
            if row >= 0:
                self.removed[row] = key in down
        self.removed_rows = self.removed.nonzero()[0]
        self._wait_for_places([each for each in map(self.overlay.get, keys) if each is not None])

    def _wait_for_places(self, changes: Sequence[Change]) -> None:
        changes = [each for each in changes if self.overlay.get(each.key) is each]
        keys = [change.key for change in changes]
        down = self.overlay.takedowns.among(keys)
        rows = self.known.rows.find(np.array(keys, np.int64))
        for change, row in zip(changes, rows.tolist(), strict=True):
            if change.key not in down and (row < 0 or change.position > self.merged):
                self._waiting.append(change)
                if self.attributes is not None:
                    self.attributes.put(change.key, row, Video.FromString(change.video))

    def place_some(self, limit: int = BATCH) -> bool:
        """Place some of the waiting videos; return whether there are more."""
        some: list[Change] = []
        while self._waiting and len(some) < limit:
            change = self._waiting.popleft()
            if self.overlay.get(change.key) is change:  # else there is a later one
                some.append(change)
        down = self.overlay.takedowns.among([change.key for change in some])
        some = [change for change in some if change.key not in down]
        if some:
            self._place_or_count(some)
        return bool(self._waiting)

    def find(self, keys: Iterable[int]) -> Int64Array:
        """Return the row of each key, -1 if it has none."""
        get = self.places.get
        return np.array([get(key, -1) for key in keys], np.int64)

    def rows_of(self, keys: Int64Array) -> Int64Array:
        """Return the rows of those of some videos that have one, int64[m]."""
        if not len(keys):
            return keys
        rows = self.find(keys.tolist())
        return rows[rows >= 0]

    def nearest(self, vector: Float32Array, limit: int, usable: BoolArray) -> Int64Array:
        """Return the rows with the largest inner products, best first.

        Args:
            vector: float32[d].
            limit: maximum number of rows.
            usable: which rows count, bool[count].
        """
        rows = usable.nonzero()[0]
        scores = (self.vectors[: self.count] @ vector).take(rows)
        return best(rows, scores, self.keys, limit)

    def replay_goldens(self) -> None:
        """Raise ReleaseError unless the video tower reproduces its outputs of training."""
        self.known.placement.replay_goldens()

    def changed_video(self, video_id: str) -> Video | None:
        """Return a video as the catalogue's last change has it; None if none is remembered."""
        change = self.overlay.get(video_key(video_id)) if self.overlay.videos else None
        if change is None or change.position <= self.merged:
            return None
        return Video.FromString(change.video)

    def video(self, row: int) -> Video:
        """Return the video of a row."""
        change = self.overlay.get(int(self.keys[row]))
        return Video.FromString(change.video) if change is not None else Video()

    def _place_or_count(self, changes: list[Change]) -> None:
        """Place videos; one that can't be placed is counted, and holds up no other."""
        try:
            self._place(changes)
        except Exception:
            if len(changes) > 1:
                for change in changes:
                    self._place_or_count([change])
                return
            [change] = changes
            video_id = Video.FromString(change.video).video_id
            log.exception("a video can't be placed", video_id=video_id)
            self._drop(change.key)
            self.unplaced.add(change.key)

    def _place(self, changes: list[Change]) -> None:
        placement = self.known.placement
        videos = [Video.FromString(change.video) for change in changes]
        content = placement.content(videos)
        own = self.known.rows.find(np.array([change.key for change in changes], np.int64))
        vectors, contents = placement.vectors(content)
        creators = np.array(
            [video_key(video.creator) if video.creator else -1 for video in videos], np.int64
        )
        languages = [_language(video) for video in videos]
        mine = own >= 0
        if mine.any():
            before = placement.known.take(own[mine], axis=0).astype(np.int64)
            same = np.zeros(len(own), np.bool_)
            same[mine] = (before == content[mine]).all(1)
            if self.known.creators is not None:
                same[mine] &= self.known.creators.take(own[mine]) == creators[mine]
            # The difference from what content alone predicts is what its watches taught.
            vectors[mine] += looked_up(self.known.vectors, own[mine]) - placement.vectors(before)[0]
        else:
            same = mine
        ages = np.array([self._age(video) for video in videos])
        nothing = np.zeros(len(videos))
        features = video_features(nothing, nothing, nothing + LIKE_PRIOR, ages)
        if self.known.features is not None:
            features[mine] = self.known.features.take(own[mine], axis=0)
        for each, change in enumerate(changes):
            self.unplaced.discard(change.key)
            if same[each]:
                self._drop(change.key)
                continue
            row = self._row_for(change.key)
            self.vectors[row] = vectors[each]
            self.content[row] = contents[each, : self.content.shape[1]]
            self.features[row] = features[each]
            self.creators[row] = creators[each]
            self.languages[row] = languages[each]
            self.changed += int(own[each] >= 0) - int(self.own_rows[row] >= 0)
            self.own_rows[row], self.new[row] = own[each], own[each] < 0
            if self.attributes is not None:
                self.slots[row] = self.attributes.slots[change.key]

    def _age(self, video: Video) -> float:
        if not video.HasField("published"):
            return 0.0
        return max(0.0, (self._clock() - video.published.seconds) / _DAY)

    def _row_for(self, key: int) -> int:
        row = self.places.get(key)
        if row is not None:
            return row
        if self._free:
            row = self._free.pop()
        else:
            row = self.count
            self.count += 1
        self.places[key] = row
        self.keys[row], self.own_rows[row] = key, -1
        return row

    def _drop(self, key: int) -> None:
        row = self.places.pop(key, None)
        if row is not None:
            self.new[row] = False
            self.changed -= int(self.own_rows[row] >= 0)
            self._free.append(row)


def _language(video: Video) -> int:
    """Return the `language_id` of a video's first label of `language`, 0 if it has none."""
    labels = (each.labels for each in video.attributes if each.name == "language")
    return language_id(next((label for each in labels for label in each), ""))
