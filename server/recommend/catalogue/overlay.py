"""The catalogue's changes since the releases were trained, as far as they are remembered.

Takedowns all are: the latest state of each video that was removed or restored.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog
from google.protobuf.message import DecodeError

from vireo.server.arrays import Int64Array
from vireo.server.errors import VireoError
from vireo.server.event_log.log import BEGIN, Entry, Position
from vireo.server.features.keys import video_key
from vireo.v1.log_pb2 import CatalogChange

log = structlog.get_logger()

_LABEL_BYTES = 48
"""What a label takes beside a release at most, see `LiveAttributes`, however short it is."""


class _States(NamedTuple):
    """The latest states of n videos, 16 bytes each. Replaced as a whole."""

    keys: Int64Array
    """Sorted, int64[n]."""
    times: Int64Array
    """When each was taken down, Unix seconds; if it was restored since, when that was, negative."""

    @staticmethod
    def of(states: Mapping[int, int]) -> _States:
        """Return the states of some videos by key."""
        keys = np.array(sorted(states), np.int64)
        return _States(keys, np.array([states[key] for key in keys.tolist()], np.int64))

    def find(self, keys: Int64Array) -> Int64Array:
        """Return the state of each key as `times` has it; 0 if there is none."""
        places = np.minimum(self.keys.searchsorted(keys), max(0, len(self.keys) - 1))
        if not len(self.keys):
            return np.zeros(len(keys), np.int64)
        return np.where(self.keys[places] == keys, self.times[places], 0)

    def updated(self, other: _States) -> _States:
        """Return the later of these states and others, which count if two are of one moment."""
        before = self.find(other.keys)
        later = np.abs(other.times) >= np.abs(before)
        keys, times = other.keys[later], other.times[later]
        places, times_now = self.keys.searchsorted(keys), self.times.copy()
        known = before[later] != 0
        times_now[places[known]] = times[known]
        return _States(
            np.insert(self.keys, places[~known], keys[~known]),
            np.insert(times_now, places[~known], times[~known]),
        )


class Takedowns:
    """Takedowns as far as they were read. Reading them is safe in any thread."""

    def __init__(self) -> None:
        """Start without any."""
        self.as_of = 0.0
        """Unix seconds up to which none is missing; 0 if that is unknown."""
        self.position = BEGIN
        """Position in stream REMOVED up to which it was read."""
        self._states = _States.of({})
        self._lock = threading.Lock()

    @staticmethod
    def read(path: Path) -> Takedowns:
        """Return what `write` wrote.

        Raises:
            VireoError: the file can't be read.
        """
        found = Takedowns()
        try:
            with np.load(path, allow_pickle=False) as file:
                keys, times = file["keys"], file["times"]
                found.as_of = float(file["as_of"])
                found.position = Position.parse(str(file["position"]))
        except Exception as error:  # NumPy raises those of zipfile and of its parser, too
            raise VireoError(f"{path}: takedowns can't be read: {error}") from error
        fits = keys.dtype == times.dtype == np.int64 and keys.shape == times.shape
        if not fits or keys.ndim != 1 or (keys[1:] <= keys[:-1]).any():
            raise VireoError(f"{path}: takedowns can't be read: they aren't sorted keys")
        found._states = _States(keys, times)
        return found

    def write(self, path: Path) -> None:
        """Write all states to a file, which is replaced in one step; raise OSError."""
        with self._lock:
            states, as_of, position = self._states, self.as_of, str(self.position)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}-{id(self)}")
        try:
            with draft.open("wb") as file:
                np.savez(file, keys=states.keys, times=states.times, as_of=as_of, position=position)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def take(self, entries: Iterable[Entry]) -> list[int]:
        """Take in messages of REMOVED, in order; return the keys of their videos.

        One that is older than the state that is known changes nothing: a log that was restored from
        a backup may lack what came after it.
        """
        changed = dict[int, int]()
        with self._lock:  # a copy has all states up to its position
            for entry in entries:
                self.position = entry.position
                try:
                    change = CatalogChange.FromString(entry.data)
                except DecodeError as error:
                    log.error("skipped a takedown that can't be read", reason=str(error))
                    continue
                key, at = video_key(change.video.video_id), max(1, change.received_at.seconds)
                if at >= abs(changed.get(key, 0)):
                    changed[key] = at if change.removed else -at
            self._states = self._states.updated(_States.of(changed))
        return [*changed]

    def merge_copy(self, copy: Takedowns) -> None:
        """Take in a copy's states where they are later."""
        with self._lock:
            self._states = copy._states.updated(self._states)
            self.as_of = max(self.as_of, copy.as_of)

    def latest(self, keys: Iterable[int]) -> int:
        """Return when the last of some videos was removed or restored, Unix seconds; 0 if none."""
        return int(np.abs(self._states.find(np.fromiter(keys, np.int64))).max(initial=0))

    @property
    def keys(self) -> Int64Array:
        """Keys of the videos that are taken down, sorted, int64[m]."""
        states = self._states
        return states.keys[states.times > 0]

    def among(self, keys: Collection[int]) -> set[int]:
        """Return those of some keys whose videos are taken down."""
        states = self._states
        if not len(states.keys):
            return set()
        wanted = np.fromiter(keys, np.int64, len(keys))
        return {*wanted[states.find(wanted) > 0].tolist()}

    def __contains__(self, key: int) -> bool:
        """Return whether a video is taken down."""
        return bool(self.among((key,)))


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
