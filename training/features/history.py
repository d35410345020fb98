"""Viewers' features as they were at given moments.

Profiles come by Feast's point-in-time join. Of the activity, which is long lists, only the rows
that held at the moments are read: Feast finds the same ones, but has Dask pickle the lists of all
viewers several times over for it, which for some two million rows doesn't end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from server.errors import VireoError
from server.features.keys import video_keys
from server.features.viewer import ViewerFeatures
from training.features.activity import ROWS_KEPT
from training.features.point_in_time import joined_at
from training.features.repository import open_repository

_KEY, _MOMENT, _PLACE = "viewer_id", "event_timestamp", "file_row"
_COLUMNS = (
    "history_ids",
    "history_times",
    "watched_keys",
    "viewer_watch_count",
    "viewer_like_count",
)

_FILE = "viewer_activity.parquet"
JUST_BEFORE = pd.Timedelta(1, "us")
"""From what was known before an event to the event: no two times are nearer to each other."""

Int64Array = npt.NDArray[np.int64]
_Activity: TypeAlias = tuple[Int64Array, Int64Array, Int64Array, int, int]
"""Keys and times of the history, keys of all that was watched, and how many watches and likes."""


def viewers_before(repo: Path, watches: pd.DataFrame) -> list[ViewerFeatures]:
    """Viewers as a request at the moment of a watch finds them: `asked_at` is the watch's time.

    Args:
        repo: a folder of features.
        watches: `viewer_id` str, `time` datetime64[us, UTC].

    Returns:
        A value a row: what was known just before that watch.

    Raises:
        VireoError: as in `viewer_features_at`.
    """
    return list(chain.from_iterable(viewers_before_by_part(repo, watches, max(1, len(watches)))))


def viewers_before_by_part(
    repo: Path, watches: pd.DataFrame, size: int
) -> Iterator[list[ViewerFeatures]]:
    """Yield what `viewers_before` returns, `size` rows at a time.

    A viewer who has watched much takes some 10 kB, and with a row for each watch there are many.
    """
    moments = {"viewer_id": watches["viewer_id"], "event_timestamp": watches["time"] - JUST_BEFORE}
    asked = watches["time"].to_numpy("datetime64[s]").astype(np.int64)
    start = 0
    for known in _viewers_at(repo, pd.DataFrame(moments).reset_index(drop=True), size):
        times = asked[start : start + len(known)].tolist()
        yield [replace(viewer, asked_at=at) for viewer, at in zip(known, times, strict=True)]
        start += len(known)


def viewer_features_at(repo: Path, moments: pd.DataFrame) -> list[ViewerFeatures]:
    """The features of viewers at moments, in the order of the rows; without `asked_at`.

    Args:
        repo: a folder of features.
        moments: `viewer_id` str, `event_timestamp` datetime64[us, UTC].

    Returns:
        A value a row; a viewer nobody knows gets the default.

    Raises:
        VireoError: a moment is so long ago that the viewer's activity at it wasn't kept.
    """
    return list(chain.from_iterable(_viewers_at(repo, moments, max(1, len(moments)))))


def _viewers_at(repo: Path, moments: pd.DataFrame, size: int) -> Iterator[list[ViewerFeatures]]:
    """Yield what `viewer_features_at` returns, `size` rows at a time."""
    store = open_repository(repo)
    profiles, _ = joined_at(store, ["viewer_profile:attributes"], "viewer_id", moments)
    attributes = profiles["attributes"].tolist()
    rows = _rows_at(repo / _FILE, moments)
    for start in range(0, len(rows), size):
        some = slice(start, start + size)
        activities = _activities(repo / _FILE, rows[some])
        yield [
            _viewer(activities.get(row), profile)
            for row, profile in zip(rows[some].tolist(), attributes[some], strict=True)
        ]


def _viewer(
    activity: _Activity | None, attributes: npt.NDArray[np.object_] | float | None
) -> ViewerFeatures:
    """One viewer; attributes are NaN or None where nobody knows them."""
    # Feast returns lists as arrays, and NaN or None where there is no row.
    profile = tuple(attributes) if isinstance(attributes, np.ndarray) else ()
    if activity is None:
        return ViewerFeatures(attributes=profile)
    history_keys, history_times, watched_keys, watches, likes = activity
    return ViewerFeatures(
        history_keys=history_keys,
        history_times=history_times,
        watched_keys=watched_keys,
        attributes=profile,
        watch_count=watches,
        like_count=likes,
    )


def _rows_at(path: Path, moments: pd.DataFrame) -> Int64Array:
    """The file's row that held at each moment, -1 for viewers who have none, int64[n].

    Raises:
        VireoError: all rows that are kept of a viewer are newer.
    """
    if moments.empty:
        return np.empty(0, np.int64)
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
    early = joined[_PLACE].isna() & joined[_KEY].isin(kept[_KEY])
    if early.any():
        first = joined[early].iloc[0]
        raise VireoError(
            f"the activity of viewer {first[_KEY]!r} at {first[_MOMENT]} wasn't "
            f"kept: only what holds after each of the last {ROWS_KEPT} watches is"
        )
    return joined[_PLACE].fillna(-1).to_numpy(np.int64)


def _activities(path: Path, rows: Int64Array) -> dict[int, _Activity]:
    """What the file has in some of its rows, by row; -1 has nothing."""
    needed = np.unique(rows[rows >= 0])
    found: dict[int, _Activity] = {}
    start = 0
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        inside = needed[np.searchsorted(needed, start) : np.searchsorted(needed, end)]
        if len(inside):
            table = file.read_row_group(group, list(_COLUMNS)).take(inside - start)
            columns = [table.combine_chunks()[name].chunk(0) for name in _COLUMNS]
            lists = [_lists(column) for column in columns[:3]]
            counts = [column.to_pylist() for column in columns[3:]]
            found.update(zip(inside.tolist(), zip(*lists, *counts, strict=True), strict=True))
        start = end
    return found


def _lists(column: pa.ListArray) -> list[Int64Array]:
    """The lists of a column as int64 arrays, video ids as their keys."""
    values = column.flatten()
    if pa.types.is_string(values.type):
        encoded = values.dictionary_encode()
        numbers = video_keys(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]
    else:
        numbers = values.to_numpy()
    offsets = column.offsets.to_numpy()
    return np.split(numbers, offsets[1:-1] - offsets[0])
