"""Interactions as numeric columns: deduplicated, sorted, and converted to tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from vireo.server.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from vireo.server.errors import VireoError
from vireo.server.features.activity import Bounce
from vireo.training.data.context import ContextTexts, Int16Array, context_places
from vireo.training.data.schema import EVENTS, INTERACTIONS, MAX_RATING, TIME, WATCH_EVENTS

MAX_GAP = timedelta(days=730)
"""Pause that separates groups of events; see `far_from_others`."""
MIN_SHARE = 0.001
"""A group below this share of all events is an error, such as Unix time 0 for "unknown"."""
SCALES = (MAX_RATING, 10.0, 100.0)
"""Best ratings of usual scales."""
ROWS_AT_A_TIME = 262_144
"""Interactions per row group."""

Int8Array = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Interactions:
    """Interactions in columns, 39 bytes each; ids are indices into lists of ids."""

    viewer: Int32Array
    """Index of the viewer's id, int32[n]."""
    video: Int32Array
    """Index of the video's id, int32[n]."""
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
    context: Int16Array
    """Places in `ContextTexts` of what is known of the context, int16[n, 3]."""

    def __len__(self) -> int:
        return len(self.time)

    def take(self, chosen: Int64Array | BoolArray) -> Interactions:
        """Return the interactions at some indices."""
        return Interactions(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def with_bounces(
        self, bounce: Bounce, durations: Float32Array, seconds: Float32Array | None = None
    ) -> Interactions:
        """Return them with plays that ended early as bounces, unless they are rated.

        Args:
            bounce: which plays these are.
            durations: seconds of each video, by index, NaN if unknown.
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
        kinds, context = np.empty(0, np.int8), context_places(0)
        return Interactions(ids, ids, kinds, times, times, shares, shares, context)

    @staticmethod
    def joined(parts: list[Interactions]) -> Interactions:
        """Concatenate the parts, at least one."""
        return Interactions(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(Interactions)
            )
        )


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
    changed = _differ(found.rating, dropped, later)
    changed |= _differ(found.watched_fraction, dropped, later)
    fresh = np.ones(len(found), np.bool_)
    fresh[dropped] = False
    kept = np.flatnonzero(fresh)
    times = found.time[kept]
    notes["repeated interactions dropped"] = int((~changed).sum())
    notes["interactions replaced by a later row of the same moment"] = int(changed.sum())
    notes["interactions earlier than the row before, sorted"] = int((np.diff(times) < 0).sum())
    return np.asarray(kept[np.argsort(times, kind="stable")], np.int64)


def _differ(values: Float32Array, left: Int64Array, right: Int64Array) -> BoolArray:
    """Return which values at `left` differ from those at `right`; NaN equals NaN."""
    one, other = values[left], values[right]
    differ: BoolArray = (one != other) & ~(np.isnan(one) & np.isnan(other))
    return differ


def most_watched(found: Interactions) -> int:
    """Return the maximum number of distinct videos that any viewer has watched."""
    watched = np.isin(found.event, [EVENTS.index(event) for event in WATCH_EVENTS])
    width = int(found.video.max(initial=0)) + 1
    pairs = found.viewer[watched].astype(np.int64) * width + found.video[watched]
    pairs.sort()  # np.unique hashes, which takes longer and more memory
    return int(np.bincount(pairs[np.diff(pairs, prepend=-1) != 0] // width).max(initial=0))


def interaction_tables(
    found: Interactions,
    order: Int64Array,
    viewer_ids: pa.Array,
    video_ids: pa.Array,
    contexts: ContextTexts,
) -> Iterator[pa.Table]:
    """Yield interactions in the given order, int64[n], a row group at a time.

    The schema is INTERACTIONS, with the columns of the context that are known. `viewer_ids` and
    `video_ids` are the ids by index.
    """
    for start in range(0, len(order), ROWS_AT_A_TIME):
        part = found.take(order[start : start + ROWS_AT_A_TIME])
        table = pa.table(
            {
                "viewer_id": viewer_ids.take(pa.array(part.viewer)),
                "video_id": video_ids.take(pa.array(part.video)),
                "timestamp": pa.array(part.time, TIME),
                "row": part.row,
                "event": pa.array(EVENTS).take(pa.array(part.event)),
                "watched_fraction": pa.array(part.watched_fraction, from_pandas=True),
                "rating": pa.array(part.rating, from_pandas=True),
                "held_out": np.zeros(len(part), np.bool_),
            },
            schema=INTERACTIONS,
        )
        for field, column in contexts.columns(part.context):
            table = table.append_column(field, column)
        yield table


def viewers_in(found: Interactions, order: Int64Array, viewer_ids: pa.Array) -> pa.Array:
    """Return the distinct viewer ids of some interactions in order of first appearance."""
    return viewer_ids.take(pa.array(pd.unique(found.viewer[order])))
