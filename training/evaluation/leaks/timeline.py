"""When everyone watched what: what every check of leaks looks its findings up in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from server.errors import VireoError

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]
_NEVER = np.iinfo(np.int64).max


class LeakError(VireoError):
    """Training saw what it is tested on; the message names the viewer, the video and the place."""


class EventCounts:
    """Counts events of an entity up to a moment, for many pairs of both at once."""

    def __init__(self, entities: Int64Array, ranks: Int64Array, moments: Int64Array) -> None:
        """Sort events by entity, then moment.

        Args:
            entities: of each event, in any order, int64[e].
            ranks: places of their moments among `moments`, int64[e].
            moments: at least those of these events, in order, int64[m].
        """
        self._moments = moments
        # Entity and moment in one number: moments by their rank, so that it fits.
        self._width = len(moments) + 1
        self._events = entities * self._width
        self._events += ranks
        self._events.sort()

    def before(self, entities: Int64Array, moments: Int64Array) -> Int64Array:
        """Events of each entity strictly before each moment, int64[m]."""
        ends = entities * self._width + np.searchsorted(self._moments, moments)
        starts = np.searchsorted(self._events, entities * self._width)
        return np.asarray(np.searchsorted(self._events, ends) - starts, np.int64)


class Timeline:
    """The watches of a split by viewer, then time; viewers and videos by number.

    Moments are Unix microseconds.
    """

    def __init__(self, watches: pd.DataFrame, video_ids: Sequence[str]) -> None:
        """Takes watches as in `training.features.watches.WATCHES`, and the ids of the rows.

        Holds some 70 bytes for each watch, and takes as much again while it is made.
        """
        self._videos = pd.Index(list(video_ids))
        numbers, names = pd.factorize(watches["viewer_id"])
        self._names = pd.Index(names)
        times = np.asarray(watches["time"].astype("int64"), np.int64)
        order = np.lexsort((times, numbers))
        self.viewers: Int64Array = np.asarray(numbers[order], np.int64)
        """Of each watch, int64[w]."""
        self.rows: Int64Array = self.video_rows(watches["video_id"])[order]
        """int64[w]."""
        self.times: Int64Array = times[order]
        """int64[w]."""
        liked = np.asarray(watches["liked_time"].astype("int64"), np.int64)[order]
        likes = watches["liked_time"].notna().to_numpy()[order]
        self.parts = pd.Categorical(watches["part"]).take(order)
        """Text of each watch, by category, [w]."""
        self.test: BoolArray = np.asarray(self.parts == "test", np.bool_)
        """bool[w]."""
        self.test_times = np.full(len(names), _NEVER)
        """Each viewer's first test watch, int64[viewers]; the far future where there is none."""
        np.minimum.at(self.test_times, self.viewers[self.test], self.times[self.test])
        del numbers, times, order  # What follows takes as much again.
        pairs = self.viewers * len(self._videos) + self.rows
        self._by_pair: npt.NDArray[np.intp] = np.argsort(pairs, kind="stable")
        self._pairs = pairs[self._by_pair]
        del pairs
        past = ~self.test
        likes &= past
        watched, liked = self.times[past], liked[likes]
        moments = np.concatenate([watched, liked])
        moments.sort()
        ranks = np.searchsorted(moments, watched)
        del watched
        self.viewer_watches = EventCounts(self.viewers[past], ranks, moments)
        self.video_watches = EventCounts(self.rows[past], ranks, moments)
        ranks = np.searchsorted(moments, liked)
        self.viewer_likes = EventCounts(self.viewers[likes], ranks, moments)
        self.video_likes = EventCounts(self.rows[likes], ranks, moments)

    @property
    def video_count(self) -> int:
        """How many videos the catalogue has."""
        return len(self._videos)

    @property
    def viewer_ids(self) -> list[str]:
        """The id of each viewer, by number."""
        return list(self._names)

    def viewer_numbers(self, ids: Sequence[str] | pd.Series) -> Int64Array:
        """The number of each viewer, -1 for an unknown one, int64[m]."""
        return np.asarray(self._names.get_indexer(pd.Index(ids)), np.int64)

    def video_rows(self, ids: Sequence[str] | pd.Series) -> Int64Array:
        """The row of each video, -1 for an unknown one, int64[m]."""
        return np.asarray(self._videos.get_indexer(pd.Index(ids)), np.int64)

    def find(self, viewers: Int64Array, rows: Int64Array) -> Int64Array:
        """The place of the watch of each (viewer, video), -1 where there is none, int64[m]."""
        wanted = viewers * len(self._videos) + rows
        at = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
        known = (viewers >= 0) & (rows >= 0) & (self._pairs[at] == wanted)
        places: Int64Array = np.where(known, self._by_pair[at], -1)
        return places

    def require_past(
        self, where: str, viewers: Int64Array, rows: Int64Array, moments: Int64Array
    ) -> None:
        """Raises LeakError unless each (viewer, video) was watched before its moment, int64[m].

        And not in the test part: that no moment makes right.
        """
        places = self.find(viewers, rows)
        wrong = (places < 0) | self.test[places] | (self.times[places] >= moments)
        if wrong.any():
            first = int(np.argmax(wrong))
            self.report(where, int(viewers[first]), int(rows[first]))

    def require_at_most(
        self, where: str, given: npt.NDArray[np.floating], known: Int64Array, rows: Int64Array
    ) -> None:
        """Raises LeakError where a count of events of a video is above what was known, [m]."""
        # Counts come as logarithms in float32.
        wrong = given > known + 0.05 + 1e-4 * known
        if wrong.any():
            first = int(np.argmax(wrong))
            where = f"{where} ({given[first]:.1f} events, {known[first]} known)"
            self.report_video(where, int(rows[first]))

    def report_video(self, where: str, row: int) -> None:
        """Raises the LeakError of a video, and of a viewer whose test watch it may come from."""
        suspects = np.flatnonzero((self.rows == row) & self.test)
        self.report(where, int(self.viewers[suspects[0]]) if len(suspects) else -1, row)

    def report(self, where: str, viewer: int, row: int) -> None:
        """Raises the LeakError of a viewer and a video, by number."""
        who = self._names[viewer] if viewer >= 0 else "unknown"
        what = self._videos[row] if row >= 0 else "unknown"
        place = int(self.find(np.array([viewer]), np.array([row]))[0])
        part = f"a watch of the {self.parts[place]} part" if place >= 0 else "no watch of theirs"
        raise LeakError(
            f"{where}: viewer {who!r}, video {what!r} ({part}) isn't something that could be "
            "known there; build the features and train again, and report it if it comes back"
        )
