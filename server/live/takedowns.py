"""Which videos are taken down: the latest state of each that was removed or restored."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog
from google.protobuf.message import DecodeError

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.errors import VireoError
from vireo.server.event_log.log import Entry
from vireo.server.event_log.position import BEGIN, Position
from vireo.server.features.keys import video_key
from vireo.v1.log_pb2 import CatalogChange

log = structlog.get_logger()

_MAX_RECENT = 10_000
"""States that are looked up in a dictionary before they are sorted in with the others."""


class _States(NamedTuple):
    """The latest states of n videos, 16 bytes each, and on some more."""

    keys: Int64Array
    """Sorted, int64[n]."""
    times: Int64Array
    """When each was taken down, Unix seconds; if it was restored since, when that was, negative."""
    recent: dict[int, int]
    """The same by key, of what came last."""

    def find(self, keys: Int64Array) -> tuple[Int64Array, BoolArray]:
        """Return the place of each key among the n, and whether it is there."""
        places = self.keys.searchsorted(keys)
        there = places < len(self.keys)
        there[there] = self.keys[places[there]] == keys[there]
        return places, there

    def merged(self) -> _States:
        """Return the same states without recent ones."""
        keys = np.array(sorted(self.recent), np.int64)
        changed = np.array([self.recent[key] for key in keys.tolist()], np.int64)
        return self.updated(_States(keys, changed, {})) if self.recent else self

    def updated(self, other: _States) -> _States:
        """Return the later of these states and others, which count if two are of one moment."""
        places, there = self.find(other.keys)
        times, changed = self.times.copy(), other.times[there]
        before = times[places[there]]
        times[places[there]] = np.where(np.abs(changed) >= np.abs(before), changed, before)
        keys = np.insert(self.keys, places[~there], other.keys[~there])
        return _States(keys, np.insert(times, places[~there], other.times[~there]), {})


class Takedowns:
    """Takedowns as far as they were read. Reading them is safe in any thread."""

    def __init__(self) -> None:
        """Start without any."""
        self.as_of = 0.0
        """Unix seconds up to which none is missing; 0 if that is unknown."""
        self.position = BEGIN
        """Position in stream REMOVED up to which it was read."""
        self._states = _States(np.empty(0, np.int64), np.empty(0, np.int64), {})
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
        found._states = _States(keys, times, {})
        return found

    def write(self, path: Path) -> None:
        """Write all states to a file, which is replaced in one step; raise OSError."""
        with self._lock:
            states = self._states = self._states.merged()
            as_of, position = self.as_of, str(self.position)
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
        changed = list[int]()
        with self._lock:  # a copy has all states up to its position
            for entry in entries:
                self.position = entry.position
                try:
                    change = CatalogChange.FromString(entry.data)
                except DecodeError as error:
                    log.error("skipped a takedown that can't be read", reason=str(error))
                    continue
                key, at = video_key(change.video.video_id), max(1, change.received_at.seconds)
                if at >= abs(self._find(key)):
                    self._states.recent[key] = at if change.removed else -at
                changed.append(key)
            if len(self._states.recent) > _MAX_RECENT:
                self._states = self._states.merged()
        return changed

    def merge_copy(self, copy: Takedowns) -> None:
        """Take in a copy's states where they are later."""
        with self._lock:
            self._states = copy._states.merged().updated(self._states.merged())
            self.as_of = max(self.as_of, copy.as_of)

    def take_removal(self, change: CatalogChange) -> None:
        """Take down the video of a change in CATALOG, unless its state is later."""
        key, at = video_key(change.video.video_id), max(1, change.received_at.seconds)
        with self._lock:
            if at > abs(self._find(key)):
                self._states.recent[key] = at

    def latest(self, keys: Iterable[int]) -> int:
        """Return when the last of some videos was removed or restored, Unix seconds; 0 if none."""
        states, wanted = self._states, np.fromiter(keys, np.int64)
        places, there = states.find(wanted)
        recent = [abs(states.recent.get(key, 0)) for key in wanted.tolist()]
        return max(int(np.abs(states.times[places[there]]).max(initial=0)), *recent, 0)

    def _find(self, key: int) -> int:
        """Return the state of a video as `_States.times` has it; 0 if there is none."""
        places, there = self._states.find(np.array([key]))
        return self._states.recent.get(key, int(self._states.times[places[0]]) if there[0] else 0)

    @property
    def keys(self) -> Int64Array:
        """Keys of the videos that are taken down, sorted, int64[m]."""
        with self._lock:
            states = self._states = self._states.merged()
        return states.keys[states.times > 0]

    def among(self, keys: Collection[int]) -> set[int]:
        """Return those of some keys whose videos are taken down."""
        states = self._states
        if not len(states.keys) and not states.recent:
            return set()
        wanted = np.fromiter(keys, np.int64, len(keys))
        places, there = states.find(wanted)
        found = {*wanted[there][states.times[places[there]] > 0].tolist()}
        if recent := states.recent:
            found = {key for key in found if recent.get(key, 1) > 0}
            found.update(key for key in keys if recent.get(key, 0) > 0)
        return found

    def __contains__(self, key: int) -> bool:
        """Return whether a video is taken down."""
        return bool(self.among((key,)))
