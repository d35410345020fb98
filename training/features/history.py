"""Point-in-time features of viewers, from the rows that were valid at the given times.

Feast's point-in-time join finds the same rows, but its Dask pickles the lists of all viewers
several times for it, which doesn't finish for some two million rows of long lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.errors import VireoError
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.features.viewer_rows import ACTIVITY, SERVED
from vireo.training.data.context import contexts_of
from vireo.training.features.activity import ROWS_KEPT
from vireo.training.features.definitions import TIMESTAMP

_KEY, _MOMENT, _PLACE = "viewer_id", TIMESTAMP, "file_row"
_ACTIVITIES, _PROFILES = "viewer_activity.parquet", "viewer_profile.parquet"
JUST_BEFORE = pd.Timedelta(1, "us")
"""Subtracted from an event's time to get what was known before it: the resolution of times."""

_Activity: TypeAlias = tuple[Int64Array, Int64Array, int, int]
"""SERVED[ACTIVITY]: times of the history, keys of all watched videos, watch count, like count."""


def viewers_before(repo: Path, watches: pd.DataFrame) -> list[ViewerFeatures]:
    """Return viewers as known just before a watch, `asked_at` its time, in row order.

    `watches` has `viewer_id` str and `time` datetime64[us, UTC], and columns of the context if it
    is known; errors are those of `viewers_at`.
    """
    return list(chain.from_iterable(viewers_before_by_part(repo, watches, max(1, len(watches)))))


def viewers_before_by_part(
    repo: Path, watches: pd.DataFrame, size: int
) -> Iterator[list[ViewerFeatures]]:
    """Yield what `viewers_before` returns, `size` rows at a time.

    A viewer with many watches takes some 10 kB, too much to hold all rows at once.
    """
    moments = {"viewer_id": watches["viewer_id"], "event_timestamp": watches["time"] - JUST_BEFORE}
    asked = watches["time"].to_numpy("datetime64[s]").astype(np.int64)
    contexts, start = contexts_of(watches), 0
    for known in viewers_at(repo, pd.DataFrame(moments).reset_index(drop=True), size):
        some = slice(start, start + len(known))
        each = zip(known, asked[some].tolist(), contexts[some], strict=True)
        yield [replace(viewer, asked_at=at, context=ids) for viewer, at, ids in each]
        start += len(known)


def viewers_at(repo: Path, moments: pd.DataFrame, size: int) -> Iterator[list[ViewerFeatures]]:
    """Yield the features of viewers at given times, `size` rows at a time; without `asked_at`.

    An unknown viewer gets the default.

    Args:
        repo: a feature folder.
        moments: `viewer_id` str, `event_timestamp` datetime64[us, UTC].
        size: rows of a part.

    Raises:
        VireoError: a time is before the viewer's earliest stored activity.
    """
    profiles, _ = _rows_at(repo / _PROFILES, moments)
    known = np.unique(profiles[profiles >= 0])
    attributes = pq.read_table(repo / _PROFILES, columns=["attributes"]).take(known)["attributes"]
    profile_of = dict(zip(known.tolist(), map(tuple, attributes.to_pylist()), strict=True))
    rows, early = _rows_at(repo / _ACTIVITIES, moments)
    if early.any():
        first = moments.iloc[int(np.flatnonzero(early)[0])]
        raise VireoError(
            f"the activity of viewer {first[_KEY]!r} at {first[_MOMENT]} wasn't "
            f"kept: only the states after the last {ROWS_KEPT} watches are"
        )
    for start in range(0, len(rows), size):
        some = slice(start, start + size)
        activities = _activities(repo / _ACTIVITIES, rows[some])
        yield [
            _viewer(activities.get(row), profile_of.get(profile, ()))
            for row, profile in zip(rows[some].tolist(), profiles[some].tolist(), strict=True)
        ]


def _viewer(activity: _Activity | None, attributes: tuple[str, ...]) -> ViewerFeatures:
    if activity is None:
        return ViewerFeatures(attributes=attributes)
    history_times, watched_keys, watches, likes = activity
    return ViewerFeatures(
        history_keys=watched_keys[len(watched_keys) - len(history_times) :],
        history_times=history_times,
        watched_keys=watched_keys,
        attributes=attributes,
        watch_count=watches,
        like_count=likes,
    )


def _rows_at(path: Path, moments: pd.DataFrame) -> tuple[Int64Array, BoolArray]:
    """Return the index of a file's row valid at each time, int64[n]; -1 for none.

    And for which of these the viewer has rows that are all of later, bool[n].
    """
    if moments.empty:
        return np.empty(0, np.int64), np.empty(0, np.bool_)
    index = pq.read_table(path, columns=[_KEY, _MOMENT])
    index = index.append_column(_PLACE, pa.array(np.arange(len(index))))
    asked = pa.array(moments[_KEY].unique())
    kept = index.filter(pc.is_in(index[_KEY], value_set=asked)).to_pandas()
    wanted = moments[[_KEY, _MOMENT]].assign(asked=np.arange(len(moments)))
    wanted[_MOMENT] = wanted[_MOMENT].astype(kept[_MOMENT].dtype)
    joined = pd.merge_asof(
        wanted.sort_values(_MOMENT),
        kept.sort_values(_MOMENT, kind="stable"),
        on=_MOMENT,
        by=_KEY,
    ).sort_values("asked")
    rows = joined[_PLACE].fillna(-1).to_numpy(np.int64)
    return rows, (rows < 0) & joined[_KEY].isin(kept[_KEY]).to_numpy()


def _activities(path: Path, rows: Int64Array) -> dict[int, _Activity]:
    """Return the activities in some of the file's rows, by row; -1 has none."""
    needed = np.unique(rows[rows >= 0])
    found: dict[int, _Activity] = {}
    start = 0
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        inside = needed[np.searchsorted(needed, start) : np.searchsorted(needed, end)]
        if len(inside):
            table = file.read_row_group(group, list(SERVED[ACTIVITY])).take(inside - start)
            read = [table.combine_chunks()[name].chunk(0) for name in SERVED[ACTIVITY]]
            lists = [_lists(column) for column in read[:2]]
            counts = [column.to_pylist() for column in read[2:]]
            found.update(zip(inside.tolist(), zip(*lists, *counts, strict=True), strict=True))
        start = end
    return found


def _lists(column: pa.ListArray) -> list[Int64Array]:
    """Return the lists of a column as int64 arrays."""
    offsets = column.offsets.to_numpy()
    return np.split(column.flatten().to_numpy(), offsets[1:-1] - offsets[0])
