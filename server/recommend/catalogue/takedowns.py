"""Which videos are taken down: the latest state of each that was removed or restored."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Mapping
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
