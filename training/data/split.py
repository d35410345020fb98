"""Split of each viewer's first watches into training, validation and test.

Ids are handled as numbers; memory is at most 100 bytes per interaction.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from server.arrays import BoolArray, Int64Array
from training.data.context import context_columns
from training.data.schema import WATCH_EVENTS

Holdout = Literal["last", "none"]
PARTS = ("train", "validation", "test")
LIKED_RATING = 4.0
"""Minimum rating that counts as a like."""
LIKED_FRACTION = 0.8
"""Minimum watched fraction that counts as a like, in data without ratings."""
MIN_WATCHES = 3
"""Viewers with fewer watches are used for training only."""
VALIDATION_WATCHES = 2
"""Maximum number of a viewer's watches before the test watch that are for validation."""
VALIDATION_SHARE = 5
"""At most one in this many watches before the test watch is for validation, but at least one."""

_NEVER = np.iinfo(np.int64).max
_NULL = np.iinfo(np.int64).min
"""A missing time as a number."""


def split_watches(interactions: pd.DataFrame, holdout: Holdout) -> pd.DataFrame:
    """Return one row per (viewer, video): the first watch and its part of the split.

    Args:
        interactions: rows as in `training.data.schema.INTERACTIONS`; texts may be categories.
        holdout: "last": each viewer's last watch is for test (or the packaged test part, if the
            data set has one), the VALIDATION_WATCHES before it for validation. "none": every
            watch is for training.

    Returns:
        `viewer_id`, `video_id` categories; `time` datetime64[us, UTC], increasing within a
        viewer: see `_strictly_increasing`; `liked` bool; `liked_time` datetime64[us, UTC]: when
        the like became known, null if not liked; `part` categories: PARTS; and the columns of
        `context_columns`. Sorted by viewer, then time.
    """
    order = _watches_in_order(interactions)
    viewers, videos = (_in_order(interactions[name]) for name in ("viewer_id", "video_id"))
    raw_times = _micros(interactions["timestamp"])[order]
    first, liked_times = _first_watches(
        viewers.codes[order],
        videos.codes[order],
        np.where(_liked(interactions, order), raw_times, _NEVER),
    )
    order, raw_times = order[first], raw_times[first]
    viewer, video = viewers.codes[order], videos.codes[order]
    times = _strictly_increasing(raw_times, viewer)
    parts = _parts(viewer, interactions["held_out"].to_numpy()[order], holdout)
    # A like at the time of the watch is known with it, a later one from its own time.
    known = np.where(liked_times > raw_times, np.maximum(liked_times, times), times)
    liked = (liked_times != _NEVER) & ~_after_test(viewer, times, parts, known)
    return pd.DataFrame(
        {
            "viewer_id": pd.Categorical.from_codes(viewer, dtype=viewers.dtype),
            "video_id": pd.Categorical.from_codes(video, dtype=videos.dtype),
            "time": _moments(times),
            "liked": liked,
            "liked_time": _moments(np.where(liked, known, _NULL)),
            "part": pd.Categorical.from_codes(parts, pd.Index(PARTS)),
            **context_columns(interactions, order),
        }
    )


def _watches_in_order(interactions: pd.DataFrame) -> npt.NDArray[np.intp]:
    """Return the indices of the interactions that are watches, sorted by time."""
    order = np.lexsort((interactions["row"].to_numpy(), _micros(interactions["timestamp"])))
    return order[interactions["event"].isin(WATCH_EVENTS).to_numpy()[order]]


def _first_watches(
    viewer: npt.NDArray[np.integer], video: npt.NDArray[np.integer], likes: Int64Array
) -> tuple[npt.NDArray[np.intp], Int64Array]:
    """Return the index of each (viewer, video)'s first watch, and the time of its first like.

    Watches are sorted by time; `likes` is a watch's time if it is a like, else _NEVER. Both results
    are sorted by viewer, then time.
    """
    pairs = viewer.astype(np.int64)
    pairs *= int(video.max(initial=0)) + 1
    pairs += video
    by_pair = np.argsort(pairs, kind="stable")
    pairs = pairs[by_pair]
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]])[: len(pairs)])
    del pairs
    first, liked_times = by_pair[starts], np.minimum.reduceat(likes[by_pair], starts)
    del by_pair, starts
    by_viewer = np.lexsort((first, viewer[first]))
    return first[by_viewer], liked_times[by_viewer]


def _in_order(ids: pd.Series) -> pd.Categorical:
    """Return ids as categories in lexical order."""
    found = pd.Categorical(ids)
    return found.reorder_categories(found.categories.sort_values())


def _micros(times: pd.Series) -> Int64Array:
    return times.to_numpy("datetime64[us]").view(np.int64)


def _moments(micros: Int64Array) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(micros.view("datetime64[us]"), tz="UTC")


def _liked(interactions: pd.DataFrame, watches: npt.NDArray[np.intp]) -> BoolArray:
    """Return whether each watch, given by its index among the interactions, is a like."""
    liked = (interactions["event"] == "like").to_numpy()[watches]
    fraction = liked_fraction(interactions)
    column, least = ("rating", LIKED_RATING) if fraction is None else ("watched_fraction", fraction)
    return np.asarray(liked | (interactions[column].to_numpy()[watches] >= least), np.bool_)


def liked_fraction(interactions: pd.DataFrame) -> float | None:
    """Return the minimum watched fraction that counts as a like; None if any watch has a rating."""
    watches = interactions["event"].isin(WATCH_EVENTS).to_numpy()
    rated = bool((interactions["rating"].notna().to_numpy() & watches).any())
    return None if rated else LIKED_FRACTION


def _strictly_increasing(times: Int64Array, viewer: npt.NDArray[np.integer]) -> Int64Array:
    """Return times that strictly increase within each viewer; rows are already sorted.

    A watch at the time of the previous one moves one microsecond after it. Point-in-time joins
    can then separate the two, so that a label sees exactly what came earlier in the file.
    """
    counts = np.bincount(viewer)
    position = np.arange(len(viewer)) - (np.cumsum(counts) - counts)[viewer]
    latest = pd.Series(times - position).groupby(viewer, sort=False).cummax().to_numpy()
    return np.asarray(latest + position, np.int64)


def _parts(
    viewer: npt.NDArray[np.integer], packaged: BoolArray, holdout: Holdout
) -> npt.NDArray[np.int8]:
    """Return each watch's part as an index in PARTS; rows are sorted by viewer, then time."""
    if holdout == "none":
        return np.zeros(len(viewer), np.int8)
    counts = np.bincount(viewer)
    enough = (counts >= MIN_WATCHES)[viewer]
    test = packaged if packaged.any() else enough & (np.diff(viewer, append=-1) != 0)
    rest = np.bincount(viewer[~test], minlength=len(counts))
    wanted = np.clip(rest // VALIDATION_SHARE, 1, VALIDATION_WATCHES)
    # Number of the viewer's later watches that aren't for test.
    later = np.cumsum(rest)[viewer] - np.cumsum(~test)
    validation = ~test & enough & (later < wanted[viewer])
    return np.where(test, 2, np.where(validation, 1, 0)).astype(np.int8)


def _after_test(
    viewer: npt.NDArray[np.integer],
    times: Int64Array,
    parts: npt.NDArray[np.int8],
    known: Int64Array,
) -> BoolArray:
    """Return which watches before a viewer's test watch were liked only later: unknown by then."""
    test = parts == PARTS.index("test")
    moments = np.full(int(viewer.max(initial=-1)) + 1, _NEVER)
    np.minimum.at(moments, viewer[test], times[test])
    return np.asarray(~test & (known >= moments[viewer]), np.bool_)
