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
from vireo.v1.log_pb2 import CatalogChange

from server.arrays import BoolArray, Int64Array
from server.errors import VireoError
from server.event_log.log import Entry
from server.event_log.position import BEGIN, Position
from server.features.keys import video_key

log = structlog.get_logger()

_MAX_RECENT = 10_000
"""States that are looked up in a dictionary before they are sorted in with the others."""


class _States(NamedTuple):
    """States of n videos, 9 bytes each, and of some more."""

    keys: Int64Array
    """Sorted, int64[n]."""
    down: BoolArray
    """Whether each is taken down, bool[n]; else it was restored."""
    recent: dict[int, bool]
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
        down = np.array([self.recent[key] for key in keys.tolist()], np.bool_)
        return self.updated(_States(keys, down, {})) if self.recent else self

    def updated(self, later: _States) -> _States:
        """Return these states and later ones; neither has recent ones."""
        places, there = self.find(later.keys)
        down = self.down.copy()
        down[places[there]] = later.down[there]
        keys = np.insert(self.keys, places[~there], later.keys[~there])
        return _States(keys, np.insert(down, places[~there], later.down[~there]), {})


class Takedowns:
    """Takedowns as far as they were read. Reading them is safe in any thread."""

    def __init__(self) -> None:
        """Start without any."""
        self.as_of = 0.0
        """Unix seconds up to which none is missing; 0 if that is unknown."""
        self.position = BEGIN
        """Position in stream REMOVED up to which it was read."""
        self._states = _States(np.empty(0, np.int64), np.empty(0, np.bool_), {})
        self._lock = threading.Lock()
        self._log_read, self._ignored_before = False, 0.0

    @staticmethod
    def read(path: Path) -> Takedowns:
        """Return what `write` wrote.

        Raises:
            VireoError: the file can't be read.
        """
        found = Takedowns()
        try:
            with np.load(path, allow_pickle=False) as file:
                keys, down = file["keys"], file["down"]
                found.as_of = float(file["as_of"])
                found.position = Position.parse(str(file["position"]))
        except Exception as error:  # NumPy raises those of zipfile and of its parser, too
            raise VireoError(f"{path}: takedowns can't be read: {error}") from error
        fits = keys.dtype == np.int64 and down.dtype == np.bool_ and keys.shape == down.shape
        if not fits or keys.ndim != 1 or (keys[1:] <= keys[:-1]).any():
            raise VireoError(f"{path}: takedowns can't be read: they aren't sorted keys")
        found._states = _States(keys, down, {})
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
                np.savez(file, keys=states.keys, down=states.down, as_of=as_of, position=position)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def take(self, entries: Iterable[Entry]) -> list[int]:
        """Take in messages of REMOVED, in order; return the keys of their videos.

        If the log begins anew, restorations from before `as_of` are known: the log, as a backup has
        it, may lack the removals that came after them.
        """
        changed, position = dict[int, bool](), self.position
        for entry in entries:
            if not entry.position.follows(position):
                self._ignored_before = self.as_of
            position = entry.position
            try:
                change = CatalogChange.FromString(entry.data)
            except DecodeError as error:
                log.error("skipped a takedown that can't be read", key=entry.key, reason=str(error))
                continue
            if change.removed or change.received_at.seconds >= self._ignored_before:
                changed[video_key(change.video.video_id)] = change.removed
        with self._lock:  # a copy has all states up to its position
            self._states.recent.update(changed)
            self.position, self._log_read = position, True
            if len(self._states.recent) > _MAX_RECENT:
                self._states = self._states.merged()
        return list(changed)

    def merge_copy(self, copy: Takedowns) -> None:
        """Merge a copy: the states of other videos, or all if it is newer than all here."""
        with self._lock:
            ours, theirs = self._states.merged(), copy._states.merged()
            newer = copy.as_of > self.as_of and not self._log_read
            self._states = ours.updated(theirs) if newer else theirs.updated(ours)
            self.as_of = max(self.as_of, copy.as_of)

    def add_if_unknown(self, key: int) -> None:
        """Take a video down unless its state is known."""
        with self._lock:
            if key not in self._states.recent and not self._states.find(np.array([key]))[1].any():
                self._states.recent[key] = True

    @property
    def keys(self) -> Int64Array:
        """Keys of the videos that are taken down, sorted, int64[m]."""
        with self._lock:
            states = self._states = self._states.merged()
        return states.keys[states.down]

    def among(self, keys: Collection[int]) -> set[int]:
        """Return those of some keys whose videos are taken down."""
        states = self._states
        if not len(states.keys) and not states.recent:
            return set()
        wanted = np.fromiter(keys, np.int64, len(keys))
        places, there = states.find(wanted)
        found = {*wanted[there][states.down[places[there]]].tolist()}
        if recent := states.recent:
            found = {key for key in found if recent.get(key, True)}
            found.update(key for key in keys if recent.get(key))
        return found

    def __contains__(self, key: int) -> bool:
        """Return whether a video is taken down."""
        return bool(self.among((key,)))
