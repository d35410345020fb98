"""The timeline of all watches, which the leak checks compare data with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from vireo.server.arrays import BoolArray, Int64Array

_NEVER = np.iinfo(np.int64).max


class LeakError(AssertionError):
    """Training saw what it is tested on; the message names the viewer, the video and where."""


class EventCounts:
    """Counts of an entity's events up to a time."""

    def __init__(self, entities: Int64Array, moments: Int64Array) -> None:
        """Index the entity and the time of each event, int64[e], in any order."""
        self._moments = {each: np.sort(moments[entities == each]) for each in np.unique(entities)}

    def before(self, entities: Int64Array, moments: Int64Array) -> Int64Array:
        """Return the number of each entity's events strictly before each time, int64[m]."""
        pairs = zip(entities, moments, strict=True)
        counts = [np.searchsorted(self._moments.get(each, ()), moment) for each, moment in pairs]
        return np.array(counts, np.int64)


class Timeline:
    """The watches of a split by viewer, then time, in Unix microseconds.

    `viewers`, `rows` and `times` are int64[w], `test` is bool[w]; viewers are numbered.
    """

    def __init__(self, watches: pd.DataFrame, video_ids: Sequence[str]) -> None:
        """Index watches as in `vireo.training.features.watches.WATCHES`; `video_ids` are by row."""
        self._videos = pd.Index(list(video_ids))
        numbers, names = pd.factorize(watches["viewer_id"])
        self._names = pd.Index(names)
        times = np.asarray(watches["time"].astype("int64"), np.int64)
        order = np.lexsort((times, numbers))
        self.viewers: Int64Array = np.asarray(numbers[order], np.int64)
        self.rows: Int64Array = self.video_rows(watches["video_id"])[order]
        self.times: Int64Array = times[order]
        liked = np.asarray(watches["liked_time"].astype("int64"), np.int64)[order]
        likes = watches["liked_time"].notna().to_numpy()[order]
        self.parts = pd.Categorical(watches["part"]).take(order)
        """Part of each watch, categorical[w]."""
        self.test: BoolArray = np.asarray(self.parts == "test", np.bool_)
        self.test_times = np.full(len(names), _NEVER)
        """Time of each viewer's first test watch, int64[viewers]; the maximum if there is none."""
        np.minimum.at(self.test_times, self.viewers[self.test], self.times[self.test])
        self._places: dict[tuple[int, int], int] = {}
        for place, (viewer, row) in enumerate(zip(self.viewers, self.rows, strict=True)):
            if row >= 0:
                self._places.setdefault((viewer, row), place)
        past = ~self.test
        likes &= past
        self.viewer_watches = EventCounts(self.viewers[past], self.times[past])
        self.video_watches = EventCounts(self.rows[past], self.times[past])
        self.viewer_likes = EventCounts(self.viewers[likes], liked[likes])
        self.video_likes = EventCounts(self.rows[likes], liked[likes])

    @property
    def video_count(self) -> int:
        """Size of the catalogue."""
        return len(self._videos)

    @property
    def viewer_ids(self) -> list[str]:
        """Id of each viewer, by number."""
        return list(self._names)

    def viewer_numbers(self, ids: Sequence[str] | pd.Series) -> Int64Array:
        """Return the number of each viewer, -1 if unknown, int64[m]."""
        return np.asarray(self._names.get_indexer(pd.Index(ids)), np.int64)

    def video_rows(self, ids: Sequence[str] | pd.Series) -> Int64Array:
        """Return the row of each video, -1 if unknown, int64[m]."""
        return np.asarray(self._videos.get_indexer(pd.Index(ids)), np.int64)

    def find(self, viewers: Int64Array, rows: Int64Array) -> Int64Array:
        """Return the place of the watch of each (viewer, video), -1 if there is none, int64[m]."""
        pairs = zip(viewers, rows, strict=True)
        return np.array([self._places.get(pair, -1) for pair in pairs], np.int64)

    def require_past(
        self, where: str, viewers: Int64Array, rows: Int64Array, moments: Int64Array
    ) -> None:
        """Raise LeakError unless each (viewer, video) was watched before a time, int64[m] each.

        Watches of the test part are never allowed.
        """
        places = self.find(viewers, rows)
        wrong = (places < 0) | self.test[places] | (self.times[places] >= moments)
        self.forbid(where, wrong, viewers, rows)

    def require_at_most(
        self, where: str, given: npt.NDArray[np.floating], known: Int64Array, rows: Int64Array
    ) -> None:
        """Raise LeakError if a video's count of events exceeds the known count, [m] each."""
        # Counts come as logarithms in float32.
        wrong = given > known + 0.05 + 1e-4 * known
        if wrong.any():
            first = np.argmax(wrong)
            counts = f"{given[first]:.1f} events, {known[first]} known"
            self.forbid_videos(f"{where} ({counts})", wrong, rows)

    def forbid_videos(self, where: str, wrong: BoolArray, rows: Int64Array) -> None:
        """Raise LeakError for the first wrong video, with a viewer whose test watch it may be."""
        if wrong.any():
            row = rows[np.argmax(wrong)]
            suspects = self.viewers[(self.rows == row) & self.test][:1]
            viewers = suspects if len(suspects) else np.array([-1])
            self.forbid(where, np.array([True]), viewers, np.array([row]))

    def forbid(self, where: str, wrong: BoolArray, viewers: Int64Array, rows: Int64Array) -> None:
        """Raise LeakError for the first wrong (viewer, video), by number, [m] each."""
        if not wrong.any():
            return
        first = np.argmax(wrong)
        viewer, row = viewers[first], rows[first]
        who = self._names[viewer] if viewer >= 0 else "unknown"
        what = self._videos[row] if row >= 0 else "unknown"
        place = int(self.find(viewers[[first]], rows[[first]])[0])
        part = f"a watch of the {self.parts[place]} part" if place >= 0 else "no watch of theirs"
        raise LeakError(f"{where}: viewer {who!r}, video {what!r} ({part}) couldn't be known there")
