"""What the log adds to a release of n videos: rows beyond its own, removals, and what is trending.

The live videos are those of the overlay that the release doesn't have, or has with other content.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import structlog

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.features.context import language_id
from vireo.server.features.keys import video_key
from vireo.server.features.looked_up import Column, looked_up, widened
from vireo.server.features.model_inputs import (
    LIKE_PRIOR,
    VIDEO_FEATURES,
    VideoTable,
    video_features,
)
from vireo.server.recommend.catalogue.overlay import Change, Overlay
from vireo.server.recommend.catalogue.placement import KnownVideos
from vireo.server.recommend.catalogue.trends import Lists, Trends, locales_of
from vireo.server.recommend.filters.table import LiveAttributes
from vireo.v1.catalog_pb2 import Video

log = structlog.get_logger()

BATCH = 32
"""Videos that are placed at once, in one to two milliseconds."""
_PART = 256
"""Changes that new live videos take in at once."""
_DAY = 86_400.0


@dataclass(frozen=True)
class ExtendedColumn:
    """A release's column, with the live videos' behind it; valid until their next change."""

    own: Column
    """An array, [n, d] or [n]."""
    live: npt.NDArray[Any]
    """[m, d] or [m]; in float32 if `own` is in float16."""
    first: int
    """The row at which those begin, n or more."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the release's column."""
        return self.own.shape

    def take(self, rows: Int64Array, axis: int) -> npt.NDArray[Any]:
        """Return the values at `rows`."""
        beyond = (rows >= self.first).nonzero()[0]
        if not len(beyond):
            return self.own.take(rows, axis=axis)
        mine = rows.copy()
        mine[beyond] = 0
        found = widened(self.own.take(mine, axis=axis))
        found[beyond] = self.live.take(rows.take(beyond) - self.first, axis=axis)
        return found


class Follower(Protocol):
    """What follows the log for releases."""

    def live_videos(self, known: KnownVideos, folder: Path) -> LiveVideos:
        """Return the live videos of a release in `folder`, and keep them current while used."""


class LiveVideos:
    """m live videos, each at a place, which makes `first` + place its row. Use it from one thread.

    Places are used again: they are valid until the next change. A release's own video whose content
    changed has a place too: ranking reads its row there, by which it keeps what its watches taught;
    in the release's index it stays where it is.
    """

    def __init__(
        self,
        overlay: Overlay,
        trends: Trends,
        known: KnownVideos,
        *,
        merged: int = 0,
        ranked: bool = True,
    ) -> None:
        """Start without a change.

        Args:
            overlay: the catalogue's changes.
            trends: what is trending.
            known: the release's part.
            merged: sequence up to which the release has the changes; see `Live.merged`.
            ranked: whether to keep content vectors, which only ranking needs.
        """
        self.overlay, self.trends, self.known, self.merged = overlay, trends, known, merged
        own, size = known.vectors.shape
        self.first = -(-own // 8) * 8
        """Row of the first: so sets of rows, eight to a byte, go on with theirs."""
        self.places: dict[int, int] = {}
        """Place of each key."""
        self.count = 0
        """m: number of places, unused ones included."""
        self._free: list[int] = []
        self._waiting: deque[int] = deque()
        self.unfit: set[int] = set()
        """Keys of the videos that wait for another release, since this one can't place them."""
        # Columns have room for all that the overlay keeps, and `count` videos. Pages that nothing
        # was written to take no memory.
        room = overlay.max_videos
        self.placed = np.zeros(room, np.bool_)
        """Whether the columns have the video; else it waits, or the release has the same of it."""
        self.new = np.zeros(room, np.bool_)
        """Whether it is placed, and the release doesn't have it."""
        self.changed: set[int] = set()
        """Keys of the videos that are placed, and that the release has with other content."""
        self.keys = np.zeros(room, np.int64)
        self.own_rows = np.zeros(room, np.int64)
        """The release's row of a changed video; -1 of a new one, and of an unused place."""
        self.vectors = np.zeros((room, size), np.float32)
        self.content = np.zeros((room, size if ranked else 0), np.float32)
        self.features = np.zeros((room, len(VIDEO_FEATURES)), np.float32)
        """VIDEO_FEATURES of unwatched videos."""
        self.creators = np.zeros(room, np.int64)
        """Key of each creator, -1 if unknown."""
        self.languages = np.zeros(room, np.int16)
        """`language_id` of each, 0 if unknown."""
        self.attributes = LiveAttributes(known.declared, room) if known.declared else None
        """Those of the videos, placed or not; None if nothing is filtered."""
        self.removed = np.zeros(own, np.bool_)
        """Whether each of the release's videos is removed, bool[n]."""
        self.removed_rows = np.zeros(0, np.int64)
        """Rows of those, int64[r]."""
        self._lists: Lists = {}
        self._trending: dict[str, tuple[Int64Array, Int64Array]] = {}

    @property
    def waiting(self) -> int:
        """Number of videos that wait to be placed."""
        return len(self._waiting)

    def catch_up(self) -> Iterator[None]:
        """Take in all takedowns and upserts as they are now, part by part.

        `update` and `place_some` may be called between two parts.
        """
        rows = self.known.rows.find(self.overlay.takedowns.keys)
        self.removed[rows[rows >= 0]] = True
        self.removed_rows = self.removed.nonzero()[0]
        keys = self.overlay.keys
        for begin in range(0, len(keys), _PART):
            self.update(keys[begin : begin + _PART])
            yield

    def update(self, keys: Sequence[int]) -> None:
        """Bring videos that may have changed to their state in the overlay.

        Their attributes count at once; `place_some` does the rest.
        """
        down = self.overlay.takedowns.among(keys)
        rows = self.known.rows.find(np.array(keys, np.int64))
        kept: list[tuple[int, int, Change]] = []
        for key, row in zip(keys, rows.tolist(), strict=True):
            change = self.overlay.get(key)
            if row >= 0:
                self.removed[row] = key in down
            if change is None or key in down or (row >= 0 and change.position <= self.merged):
                self._drop(key)
            else:
                kept.append((key, row, change))
        for each in kept:  # into the places of those that went
            self._put(*each)
        if (rows >= 0).any():
            self.removed_rows = self.removed.nonzero()[0]

    def place_some(self, limit: int = BATCH) -> bool:
        """Place some of the waiting videos; return whether there are more."""
        changes: list[Change] = []
        while self._waiting and len(changes) < limit:
            key = self._waiting.popleft()
            change = self.overlay.get(key)
            if change is not None and key in self.places:  # else it went meanwhile
                changes.append(change)
        if changes:
            self._place_or_count(changes)
        return bool(self._waiting)

    def find(self, keys: Int64Array, rows: Int64Array, *, changed: bool = False) -> Int64Array:
        """Return the rows of videos, those of placed new ones too; -1 for unknown ones, int64[m].

        Args:
            keys: int64[m].
            rows: row of each in the release's table, -1 for unknown ones, int64[m].
            changed: whether a changed video is found at its place, instead of in the release.
        """
        # While none of the release's videos is changed, only those that it lacks have places.
        every = changed and bool(self.changed)
        asked = np.arange(len(keys)) if every else (rows < 0).nonzero()[0]
        if not len(asked) or not self.places:
            return rows
        get = self.places.get
        places = np.array([get(key, -1) for key in keys[asked].tolist()], np.int64)
        found = rows.copy()
        found[asked] = np.where(
            (places >= 0) & self.placed.take(places), places + self.first, rows[asked]
        )
        return found

    def extended(self, own: Column, live: npt.NDArray[Any]) -> Column:
        """Return a column of the release with that of the live videos behind it."""
        return ExtendedColumn(own, live, self.first)

    def table(self, own: VideoTable) -> VideoTable:
        """Return the release's table with the live videos' rows, until their next change."""
        return VideoTable(
            self.extended(own.vectors, self.vectors),
            self.extended(own.features, self.features),
            self.extended(own.content, self.content),
            self.extended(own.creators, self.creators),
            None if own.languages is None else self.extended(own.languages, self.languages),
        )

    def trending(self, locale: str) -> Int64Array:
        """Return rows of what is trending: in the locale, then in its language, then everywhere."""
        lists = self.trends.lists
        if lists is not self._lists:
            self._lists, self._trending = lists, {}
        names = [name for name in locales_of(locale) if name in lists]
        if not names:
            return np.empty(0, np.int64)
        found = self._trending.get(names[0])
        if found is None:
            keys = np.concatenate([lists[name] for name in names])
            keys = keys[np.sort(np.unique(keys, return_index=True)[1])]
            found = self._trending[names[0]] = keys, self.known.rows.find(keys)
        rows = self.find(*found)
        return rows[rows >= 0]

    def unseen(self, keys: Int64Array, rows: Int64Array, limit: int) -> BoolArray:
        """Return which videos are new and had fewer impressions than `limit`, bool[m].

        Arguments are those of `find`, with its rows.
        """
        unseen: BoolArray = rows >= self.first
        for place in unseen.nonzero()[0].tolist():
            new = self.new[rows[place] - self.first]
            unseen[place] = new and self.trends.impressions(int(keys[place])) < limit
        return unseen

    def video(self, row: int) -> Video:
        """Return the video of a row from `first` on."""
        change = self.overlay.get(int(self.keys[row - self.first]))
        return Video.FromString(change.video) if change is not None else Video()

    def changed_video(self, video_id: str) -> Video | None:
        """Return a video as the catalogue's last change has it; None if none is remembered."""
        change = self.overlay.get(video_key(video_id)) if self.overlay.videos else None
        if change is None or change.position <= self.merged:
            return None
        return Video.FromString(change.video)

    def _put(self, key: int, own_row: int, change: Change) -> None:
        place = self.places.get(key)
        if place is None:
            place = self._free.pop() if self._free else self.count
            self.count = max(self.count, place + 1)
            self.places[key] = place
        self.keys[place], self.own_rows[place] = key, own_row
        self._waiting.append(key)
        if self.attributes is not None:
            self.attributes.put(place, Video.FromString(change.video))

    def _drop(self, key: int) -> None:
        self.unfit.discard(key)
        self.changed.discard(key)
        place = self.places.pop(key, None)
        if place is not None:
            self.placed[place] = self.new[place] = False
            self.own_rows[place] = -1
            self._free.append(place)
            if self.attributes is not None:
                self.attributes.drop(place)

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
            place = self.places[change.key]
            self.placed[place] = self.new[place] = False
            self.changed.discard(change.key)
            self.unfit.add(change.key)

    def _place(self, changes: list[Change]) -> None:
        placement = self.known.placement
        videos = [Video.FromString(change.video) for change in changes]
        content = placement.content(videos)
        places = np.array([self.places[change.key] for change in changes], np.int64)
        own = self.own_rows.take(places)
        vectors, contents = placement.vectors(content)
        creators = np.array(
            [video_key(video.creator) if video.creator else -1 for video in videos], np.int64
        )
        mine, same = own >= 0, np.zeros(len(own), np.bool_)
        if mine.any():
            before = placement.known.take(own[mine], axis=0).astype(np.int64)
            same[mine] = (before == content[mine]).all(1)
            if self.known.creators is not None:
                same[mine] &= self.known.creators.take(own[mine]) == creators[mine]
            # The difference from what content alone predicts is what its watches taught.
            vectors[mine] += looked_up(self.known.vectors, own[mine]) - placement.vectors(before)[0]
        ages = np.array([self._age(video) for video in videos])
        nothing = np.zeros(len(videos))
        features = video_features(nothing, nothing, nothing + LIKE_PRIOR, ages)
        if self.known.features is not None:
            features[mine] = self.known.features.take(own[mine], axis=0)
        self.vectors[places] = vectors
        self.content[places] = contents[:, : self.content.shape[1]]
        self.features[places] = features
        self.creators[places] = creators
        self.languages[places] = [_language(video) for video in videos]
        self.placed[places], self.new[places] = ~same, ~mine
        keys = [change.key for change in changes]
        self.unfit.difference_update(keys)
        self.changed.difference_update(keys)
        self.changed.update(self.keys[places[mine & ~same]].tolist())

    def _age(self, video: Video) -> float:
        if not video.HasField("published"):
            return 0.0
        return max(0.0, (self.overlay.clock() - video.published.seconds) / _DAY)


def _language(video: Video) -> int:
    """Return the `language_id` of a video's first label of `language`, 0 if it has none."""
    labels = (each.labels for each in video.attributes if each.name == "language")
    return language_id(next((label for each in labels for label in each), ""))
