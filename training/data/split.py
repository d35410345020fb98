"""Split of each viewer's first watches into training, validation and test.

Ids are handled as numbers; memory is at most 100 bytes per interaction.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.training.data.context import context_columns
from vireo.training.data.schema import HIDE_EVENTS, WATCH_EVENTS

Holdout = Literal["last", "none"]
PARTS = ("train", "validation", "test")
_TEST = PARTS.index("test")
LIKED_RATING = 4.0
"""Minimum rating that counts as a like, of MAX_RATING."""
LIKED_FRACTION = 0.8
"""Minimum watched fraction that counts as a like of a row without a rating."""
FINISHED_FRACTION = 0.9
"""Minimum watched fraction that counts as a watch to the end."""
MIN_WATCHES = 3
"""Viewers with fewer watches are used for training only."""
VALIDATION_WATCHES = 2
"""Maximum number of a viewer's watches before the test watch that are for validation."""
VALIDATION_SHARE = 5
"""At most one in this many watches before the test watch is for validation, but at least one."""

_NEVER = np.iinfo(np.int64).max
_KNOWN_NOT = _NEVER - 1
"""In place of an outcome's time: known to be none."""
_NULL = np.iinfo(np.int64).min
"""A missing time as a number."""


def split_watches(interactions: pd.DataFrame, holdout: Holdout) -> pd.DataFrame:
    """Return one row per (viewer, video): the first watch and its part of the split.

    Args:
        interactions: rows as in `vireo.training.data.schema.INTERACTIONS`; texts may be categories.
        holdout: "last": each viewer's last watch is for test (or the packaged test part, if the
            data set has one), the VALIDATION_WATCHES before it for validation. "none": every
            watch is for training.

    Returns:
        `viewer_id`, `video_id` categories; `time` datetime64[us, UTC], increasing within a
        viewer: see `_strictly_increasing`; `liked` float32: 1 or 0, NaN if unknown; `liked_time`
        datetime64[us, UTC]: when the like became known, null if not liked; `finished` float32,
        as `liked`; `part` categories: PARTS; and the columns of `context_columns`. Sorted by
        viewer, then time. Videos that a viewer hides are left out, except where that comes after
        the viewer's test watch.
    """
    raw_times, held_out = micros(interactions["timestamp"]), interactions["held_out"].to_numpy()
    order = np.lexsort((interactions["row"].to_numpy(), raw_times))
    order = order[interactions["event"].isin(WATCH_EVENTS).to_numpy()[order]]
    viewers, videos = (_in_order(interactions[name]) for name in ("viewer_id", "video_id"))
    first, outcomes = _first_watches(
        viewers.codes[order],
        videos.codes[order],
        [_like_times(interactions, order), _finish_times(interactions, order)],
    )
    order = order[first]
    del first
    if (hides := np.flatnonzero(interactions["event"].isin(HIDE_EVENTS).to_numpy())).size:
        hidden = _hidden_times(interactions, viewers.codes, videos.codes, hides, order)
        kept = _not_hidden(viewers.codes[order], raw_times[order], hidden, held_out[order], holdout)
        order, outcomes = order[kept], [happened[kept] for happened in outcomes]
    viewer, video, raw_times = viewers.codes[order], videos.codes[order], raw_times[order]
    times = _strictly_increasing(raw_times, viewer)
    parts = _parts(viewer, held_out[order], holdout)
    ends = np.where(parts == _TEST, _NEVER, _test_times(viewer, times, parts)[viewer])
    (liked, liked_times), (finished, _) = (
        _labels(happened, raw_times, times, ends) for happened in outcomes
    )
    del outcomes, raw_times, ends
    return pd.DataFrame(
        {
            "viewer_id": pd.Categorical.from_codes(viewer, dtype=viewers.dtype),
            "video_id": pd.Categorical.from_codes(video, dtype=videos.dtype),
            "time": _moments(times),
            "liked": liked,
            "liked_time": _moments(liked_times),
            "finished": finished,
            "part": pd.Categorical.from_codes(parts, pd.Index(PARTS)),
            **context_columns(interactions, order),
        }
    )


def hidden_videos(interactions: pd.DataFrame, watches: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (viewer, video) that the viewer hides, in the columns of the watches.

    Its time is that of the first play, like or hide. A hide that doesn't come before the viewer's
    test watch isn't known by then, and left out.

    Args:
        interactions: rows as in `vireo.training.data.schema.INTERACTIONS`; texts may be categories.
        watches: what `split_watches` returns for them.
    """
    viewers, videos = (_in_order(interactions[name]) for name in ("viewer_id", "video_id"))
    times, event = micros(interactions["timestamp"]), interactions["event"]
    hides = event.isin(HIDE_EVENTS).to_numpy()
    tests = watches[watches["part"] == "test"]
    ends = np.full(len(viewers.categories), _NEVER)
    np.minimum.at(ends, tests["viewer_id"].cat.codes, micros(tests["time"]))
    pairs = viewers.codes.astype(np.int64) * len(videos.categories) + videos.codes
    kept = watches["viewer_id"].cat.codes.to_numpy(np.int64) * len(videos.categories)
    kept += watches["video_id"].cat.codes
    hidden = np.setdiff1d(pairs[hides & (times < ends[viewers.codes])], kept)
    acted = np.flatnonzero((hides | event.isin(WATCH_EVENTS)) & np.isin(pairs, hidden))
    acted = acted[np.lexsort((interactions["row"].to_numpy()[acted], times[acted]))]
    first = acted[np.unique(pairs[acted], return_index=True)[1]]
    first = first[np.lexsort((times[first], viewers.codes[first]))]
    return pd.DataFrame(
        {
            "viewer_id": viewers[first],
            "video_id": videos[first],
            "time": _moments(times[first]),
            "liked": np.float32(np.nan),
            "liked_time": _moments(np.full(len(first), _NULL)),
            "finished": np.float32(np.nan),
            "part": pd.Categorical.from_codes(np.zeros(len(first), np.int8), pd.Index(PARTS)),
            **context_columns(interactions, first),
        }
    )


def _first_watches(
    viewer: npt.NDArray[np.integer], video: npt.NDArray[np.integer], outcomes: list[Int64Array]
) -> tuple[npt.NDArray[np.intp], list[Int64Array]]:
    """Return the index of each (viewer, video)'s first watch, and the first time of each outcome.

    Watches are sorted by time; `outcomes` are as in `_like_times`. All results are sorted by
    viewer, then time.
    """
    pairs = viewer.astype(np.int64)
    pairs *= int(video.max(initial=0)) + 1
    pairs += video
    _, first, pair = np.unique(pairs, return_index=True, return_inverse=True)
    del pairs
    times = [np.full(len(first), _NEVER) for _ in outcomes]
    for earliest, outcome in zip(times, outcomes, strict=True):
        np.minimum.at(earliest, pair, outcome)
    by_viewer = np.lexsort((first, viewer[first]))
    return first[by_viewer], [outcome[by_viewer] for outcome in times]


def _in_order(ids: pd.Series) -> pd.Categorical:
    """Return ids as categories in lexical order."""
    found = pd.Categorical(ids)
    return found.reorder_categories(found.categories.sort_values())


def micros(times: pd.Series) -> Int64Array:
    """Return times in Unix microseconds, int64[n]; the minimum for a missing one."""
    return times.to_numpy("datetime64[us]").view(np.int64)


def _moments(times: Int64Array) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(times.view("datetime64[us]"), tz="UTC")


def _like_times(interactions: pd.DataFrame, watches: npt.NDArray[np.intp]) -> Int64Array:
    """Return the time of each watch that is a like, given by its index among the interactions.

    It is _KNOWN_NOT for one that is known to be none, by its rating, else its fraction, else as
    there are likes in the data; and _NEVER if nothing is known.
    """
    rating, fraction = (
        interactions[name].to_numpy(np.float32)[watches] for name in ("rating", "watched_fraction")
    )
    liked = (interactions["event"] == "like").to_numpy()[watches]
    known = ~np.isnan(rating) | ~np.isnan(fraction) | liked.any()
    enough = np.where(np.isnan(rating), fraction >= LIKED_FRACTION, rating >= LIKED_RATING)
    times = micros(interactions["timestamp"])[watches]
    return np.where(liked | enough, times, np.where(known, _KNOWN_NOT, _NEVER))


def _finish_times(interactions: pd.DataFrame, watches: npt.NDArray[np.intp]) -> Int64Array:
    """Return the time of each watch to the end, as `_like_times` does."""
    fraction = interactions["watched_fraction"].to_numpy(np.float32)[watches]
    times = micros(interactions["timestamp"])[watches]
    unfinished = np.where(np.isnan(fraction), _NEVER, _KNOWN_NOT)
    return np.where(fraction >= FINISHED_FRACTION, times, unfinished)


def _labels(
    happened: Int64Array, raw_times: Int64Array, times: Int64Array, ends: Int64Array
) -> tuple[Float32Array, Int64Array]:
    """Return whether an outcome followed each watch, and since when that is known, int64[m].

    The label is 1 or 0, NaN if unknown, float32[m]; the time is _NULL if it didn't follow.

    Args:
        happened: its times, as in `_like_times`.
        raw_times: those of the watches.
        times: those of the watches, strictly increasing within a viewer.
        ends: from when on what happens isn't known yet: the viewer's test watch, except for itself.
    """
    # What happens at the time of the watch is known with it, what comes later from its own time.
    known = np.where(happened > raw_times, np.maximum(happened, times), times)
    found = (happened < _KNOWN_NOT) & (known < ends)
    labels = np.where(happened == _NEVER, np.nan, found).astype(np.float32)
    return labels, np.where(found, known, _NULL)


def _hidden_times(
    interactions: pd.DataFrame,
    viewer: npt.NDArray[np.integer],
    video: npt.NDArray[np.integer],
    hides: npt.NDArray[np.intp],
    watches: npt.NDArray[np.intp],
) -> Int64Array:
    """Return when the viewer of each watch first hid its video, _NEVER if not, int64[m].

    `viewer` and `video` are numbers of the interactions' ids, `hides` indices of those that are
    hides, `watches` of m others.
    """
    width = int(video.max(initial=0)) + 1
    times = pd.Series(
        micros(interactions["timestamp"])[hides],
        viewer[hides].astype(np.int64) * width + video[hides],
    )
    first = times.groupby(level=0).min()
    pairs = viewer[watches].astype(np.int64) * width + video[watches]
    return np.asarray(first.reindex(pairs, fill_value=_NEVER), np.int64)


def _not_hidden(
    viewer: npt.NDArray[np.integer],
    times: Int64Array,
    hidden: Int64Array,
    packaged: BoolArray,
    holdout: Holdout,
) -> BoolArray:
    """Return which watches are of videos that the viewer doesn't hide, as far as is known.

    Before the test watch of a viewer, later hides are unknown. Watches are sorted by viewer, then
    time; `hidden` are those of `_hidden_times`.
    """
    kept = hidden == _NEVER
    parts = np.zeros(len(viewer), np.int8)
    parts[kept] = _parts(viewer[kept], packaged[kept], holdout)
    tests = _test_times(viewer, times, parts)[viewer]
    return np.asarray(kept | ((times < tests) & (hidden >= tests)), np.bool_)


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


def _test_times(
    viewer: npt.NDArray[np.integer], times: Int64Array, parts: npt.NDArray[np.int8]
) -> Int64Array:
    """Return the time of each viewer's first test watch, _NEVER without one, by viewer."""
    test = parts == _TEST
    moments = np.full(int(viewer.max(initial=-1)) + 1, _NEVER)
    np.minimum.at(moments, viewer[test], times[test])
    return moments
