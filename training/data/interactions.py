"""Interactions as numeric columns: numbered, checked, sorted, and converted to tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.arrays import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array
from vireo.server.errors import VireoError
from vireo.server.features.activity import Bounce
from vireo.server.features.context import COLUMNS
from vireo.training.data.columns import MAX_CLOCK_SKEW, unix_micros
from vireo.training.data.schema import EVENTS, INTERACTIONS, MAX_RATING, TIME, WATCH_EVENTS
from vireo.training.data.split import MIN_WATCHES

MAX_GAP = timedelta(days=730)
"""Pause that separates groups of events; see `far_from_others`."""
MIN_SHARE = 0.001
"""A group below this share of all events is an error, such as Unix time 0 for "unknown"."""
EARLIEST_USUAL = datetime(1990, 1, 1, tzinfo=UTC)
"""If most events are earlier, their times are hardly Unix seconds."""
_MIN_EVENTS = 1_000
"""Fewer events may be early if no unit is likely, as in a trial with times 1, 2, 3."""
_UNITS = (
    # Unit, its seconds, and its number at the Unix epoch.
    ("days since 1900, as in Excel", 86_400, 25_569),
    ("days since 1970", 86_400, 0),
    ("hours since 1970", 3600, 0),
    ("minutes since 1970", 60, 0),
)
SCALES = (MAX_RATING, 10.0, 100.0)
"""Best ratings of usual scales."""
MIN_VIDEOS = 2
"""Minimum catalogue size; fewer videos leave nothing to choose from."""
ROWS_AT_A_TIME = 262_144
"""Interactions per row group."""

Int8Array = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Texts:
    """Texts numbered by first appearance."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        """Return the number of a text, which is added if it is new."""
        return self.numbers.setdefault(text, len(self.numbers))

    def add(self, column: Any) -> Int32Array:
        """Return the number of each text of a column, -1 for missing ones, int32[n]; add new ones.

        The column is one of pyarrow or pandas.
        """
        return self._each(column, self.number)

    def find(self, column: Any) -> Int32Array:
        """Return the number of each text of a column, -1 if there is none, int32[n]."""
        return self._each(column, lambda text: self.numbers.get(text, -1))

    @staticmethod
    def _each(column: Any, number: Callable[[str], int]) -> Int32Array:
        array = pa.array(column, from_pandas=True) if isinstance(column, pd.Series) else column
        chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
        found = [np.empty(0, np.int32)]
        for chunk in chunks:
            if not pa.types.is_dictionary(chunk.type):
                chunk = pc.dictionary_encode(chunk)
            numbers = [*(number(text) for text in chunk.dictionary.to_pylist()), -1]
            codes = chunk.indices.fill_null(len(numbers) - 1).to_numpy()
            found.append(np.array(numbers, np.int32)[codes])
        return np.concatenate(found)

    def array(self) -> pa.Array:
        """Return the texts by their numbers."""
        return pa.array(list(self.numbers), pa.string())


@dataclass(frozen=True)
class Names:
    """The texts of interactions."""

    viewers: Texts = field(default_factory=Texts)
    videos: Texts = field(default_factory=Texts)
    context: tuple[Texts, ...] = field(default_factory=lambda: tuple(Texts() for _ in COLUMNS))
    """Texts of each of COLUMNS, in their order."""

    @property
    def known_context(self) -> list[str]:
        """Those of COLUMNS of which there is a text."""
        pairs = zip(COLUMNS, self.context, strict=True)
        return [name for name, texts in pairs if texts.numbers]


@dataclass(frozen=True)
class Interactions:
    """Interactions in columns, 45 bytes each, whose texts are in Names."""

    viewer: Int32Array
    """Number of the viewer's id, int32[n]."""
    video: Int32Array
    """Number of the video's id, int32[n]."""
    event: Int8Array
    """Index in EVENTS, int8[n]."""
    time: Int64Array
    """Unix microseconds, int64[n]."""
    row: Int64Array
    """Row number in the file, int64[n], increasing."""
    watched_fraction: Float32Array
    """float32[n], NaN if unknown."""
    rating: Float32Array
    """float32[n], NaN if unknown."""
    context: Int32Array
    """Numbers of the texts of the context, -1 if unknown, int32[n, 3]."""

    def __len__(self) -> int:
        return len(self.time)

    def take(self, chosen: Int64Array | BoolArray) -> Interactions:
        """Return the interactions at some indices."""
        return Interactions(*(column[chosen] for column in vars(self).values()))

    def with_bounces(
        self, bounce: Bounce, durations: Float32Array, seconds: Float32Array | None = None
    ) -> Interactions:
        """Return them with plays that ended early as bounces, unless they are rated.

        Args:
            bounce: which plays these are.
            durations: seconds of each video, by number, NaN if unknown.
            seconds: seconds watched if known apart from the fraction, NaN if not, float32[n].
        """
        watched = self.watched_fraction * durations[self.video]
        if seconds is not None:
            watched = np.where(np.isnan(seconds), watched, seconds)
        early = bounce.among(self.watched_fraction, watched) & np.isnan(self.rating)
        early &= self.event == EVENTS.index("play")
        kinds = np.where(early, EVENTS.index("bounce"), self.event).astype(np.int8)
        return replace(self, event=kinds)

    @staticmethod
    def none() -> Interactions:
        """Return no interactions."""
        ids, times, shares = np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32)
        kinds, context = np.empty(0, np.int8), np.empty((0, len(COLUMNS)), np.int32)
        return Interactions(ids, ids, kinds, times, times, shares, shares, context)

    @staticmethod
    def joined(parts: list[Interactions]) -> Interactions:
        """Concatenate the parts, at least one."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return Interactions(*map(np.concatenate, columns))

    def tables(self, order: Int64Array, names: Names) -> Iterator[pa.Table]:
        """Yield them in the given order, int64[m], a row group at a time; see `table`."""
        viewers, videos = names.viewers.array(), names.videos.array()
        context = [texts.array() for texts in names.context]
        for start in range(0, len(order), ROWS_AT_A_TIME):
            part = self.take(order[start : start + ROWS_AT_A_TIME])
            yield part.table(viewers, videos, context)

    def table(self, viewers: pa.Array, videos: pa.Array, context: Sequence[pa.Array]) -> pa.Table:
        """Return them in a table of INTERACTIONS, with the columns of the context that are known.

        Args:
            viewers: the ids of viewers by number.
            videos: those of videos.
            context: the texts of each of COLUMNS; none if it isn't known.
        """
        table = pa.table(
            {
                "viewer_id": viewers.take(pa.array(self.viewer)),
                "video_id": videos.take(pa.array(self.video)),
                "timestamp": pa.array(self.time, TIME),
                "row": self.row,
                "event": pa.array(EVENTS).take(pa.array(self.event)),
                "watched_fraction": pa.array(self.watched_fraction, from_pandas=True),
                "rating": pa.array(self.rating, from_pandas=True),
                "held_out": np.zeros(len(self), np.bool_),
            },
            schema=INTERACTIONS,
        )
        for name, texts, own in zip(COLUMNS, context, self.context.T, strict=True):
            if len(texts):
                column = texts.take(pa.array(own, mask=own < 0))
                table = table.append_column(pa.field(name, pa.string()), column)
        return table


def rescaled(ratings: Float32Array, scale: float | None) -> Float32Array:
    """Return ratings whose best is `scale` as ratings whose best is MAX_RATING.

    Without a scale, it is the first of SCALES that hardly any rating exceeds.

    Raises:
        VireoError: a rating exceeds the scale.
    """
    known = ratings[~np.isnan(ratings)]
    if scale is None:
        fit = (each for each in SCALES if not len(known) or np.mean(known > each) <= MIN_SHARE)
        scale = next(fit, MAX_RATING)
    elif (best := known.max(initial=0)) > scale:
        raise VireoError(f"there is a rating of {best:g}, above --rating-scale {scale:g}")
    return ratings if scale == MAX_RATING else ratings * np.float32(MAX_RATING / scale)


def check_years(name: str, times: Int64Array, now: datetime) -> None:
    """Raise VireoError if most times of a file are before EARLIEST_USUAL; it names the likely unit.

    Args:
        name: the file's name.
        times: Unix microseconds, int64[n].
        now: the current time.
    """
    if not len(times) or (middle := float(np.median(times))) >= unix_micros(EARLIEST_USUAL):
        return
    unit = _likely_unit(times / 1e6, now)
    if not unit and len(times) < _MIN_EVENTS:
        return
    raise VireoError(
        f"{name}, column timestamp: most times are before {EARLIEST_USUAL.year} as Unix seconds, "
        f"the middle one is {middle / 1e6:.15g}"
        + (f"; they look like {unit}" if unit else "")
        + "; write Unix seconds or ISO 8601, for example 2024-05-01T12:00:00Z"
    )


def _likely_unit(numbers: Float64Array, now: datetime) -> str:
    """Return the unit in which most numbers are times from EARLIEST_USUAL to now, empty if none."""
    year, month = np.divmod(numbers, 100)
    in_range = (year >= EARLIEST_USUAL.year) & (year <= now.year)
    # Of hours, a tenth would end like a month.
    if np.mean(in_range & (month >= 1) & (month <= 12) & (month % 1 == 0)) > 0.5:
        return "months, as in 202405"
    if np.mean((numbers >= EARLIEST_USUAL.year) & (numbers <= now.year)) > 0.5:
        return "years"
    first, last = EARLIEST_USUAL.timestamp(), (now + MAX_CLOCK_SKEW).timestamp()
    for unit, seconds, epoch in _UNITS:
        moments = (numbers - epoch) * seconds
        if np.mean((moments >= first) & (moments <= last)) > 0.5:
            return unit
    return ""


def far_from_others(times: Int64Array) -> BoolArray:
    """Return which times, Unix microseconds, belong to a small group far from all others, bool[n].

    Pauses over MAX_GAP separate groups; a group with less than MIN_SHARE of all times is far. An
    old history and a long pause are fine if enough events surround them; among fewer than 1 /
    MIN_SHARE times none is far.
    """
    order = np.argsort(times, kind="stable")
    pauses = np.flatnonzero(np.diff(times[order]) > MAX_GAP // timedelta(microseconds=1)) + 1
    sizes = np.diff(np.concatenate([[0], pauses, [len(times)]]))
    far = np.zeros(len(times), np.bool_)
    far[order] = np.repeat(sizes < MIN_SHARE * len(times), sizes)
    return far


def in_order(found: Interactions, notes: Counter[str]) -> Int64Array:
    """Return indices sorted by (time, row), without duplicates, int64[m].

    Of rows with the same viewer, video, event and time the last is kept. `notes` counts the others,
    separately if their rating or fraction differs.
    """
    pair = found.viewer.astype(np.int64) * (int(found.video.max(initial=0)) + 1) + found.video
    same = pair * len(EVENTS) + found.event
    order = np.lexsort((same, found.time))  # stable: the last in the file comes last
    repeated = np.flatnonzero((np.diff(same[order]) == 0) & (np.diff(found.time[order]) == 0))
    dropped, later = order[repeated], order[repeated + 1]
    changed = np.zeros(len(dropped), np.bool_)
    for values in (found.rating, found.watched_fraction):
        changed |= ~np.isclose(values[dropped], values[later], rtol=0, atol=0, equal_nan=True)
    fresh = np.ones(len(found), np.bool_)
    fresh[dropped] = False
    kept = np.flatnonzero(fresh)
    times = found.time[kept]
    notes["repeated interactions dropped"] = int((~changed).sum())
    notes["interactions replaced by a later row of the same moment"] = int(changed.sum())
    notes["interactions earlier than the row before, sorted"] = int((np.diff(times) < 0).sum())
    return np.asarray(kept[np.argsort(times, kind="stable")], np.int64)


def check_size(found: Interactions, videos: int) -> None:
    """Raise VireoError if there is too little data to train on."""
    if videos < MIN_VIDEOS:
        raise VireoError(
            f"there are {videos} videos, too few to recommend from; import at least {MIN_VIDEOS}"
        )
    watched = np.isin(found.event, [EVENTS.index(event) for event in WATCH_EVENTS])
    width = int(found.video.max(initial=0)) + 1
    pairs = found.viewer[watched].astype(np.int64) * width + found.video[watched]
    pairs.sort()  # np.unique hashes, which takes longer and more memory
    most = int(np.bincount(pairs[np.diff(pairs, prepend=-1) != 0] // width).max(initial=0))
    if most < MIN_WATCHES:
        raise VireoError(
            f"no viewer watched more than {most} videos, too few to train on; at least one needs "
            f"{MIN_WATCHES} (events play or like)"
        )
