"""Viewers' features as they were at given moments, by Feast's point-in-time join."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from server.errors import VireoError
from server.features.keys import video_keys
from server.features.viewer import ViewerFeatures
from training.features.activity import ROWS_KEPT
from training.features.point_in_time import joined_at
from training.features.repository import open_repository

_COUNTS = ["viewer_watch_count", "viewer_like_count"]
_ROW = ["viewer_id", *_COUNTS]
"""What tells a row of viewer_activity from every other: counts grow with each of a viewer's."""

Int64Array = npt.NDArray[np.int64]


def viewer_features_at(repo: Path, moments: pd.DataFrame) -> list[ViewerFeatures]:
    """The features of viewers at moments, in the order of the rows.

    To get what was known just before a watch, ask for its time less one microsecond.

    Args:
        repo: a folder of features.
        moments: `viewer_id` str, `event_timestamp` datetime64[us, UTC].

    Returns:
        A value a row; a viewer nobody knows gets the default.

    Raises:
        VireoError: a moment is so long ago that the viewer's activity at it wasn't kept.
    """
    store = open_repository(repo)
    profiles, _ = joined_at(store, ["viewer_profile:attributes"], "viewer_id", moments)
    # Feast says which row of the activity held at each moment, by its counts. The lists of
    # that row are read here: through Feast, Dask would pickle them dozens of times over.
    names = [f"viewer_activity:{name}" for name in _COUNTS]
    counts, found = joined_at(store, names, "viewer_id", moments)
    if not found.all():
        first = moments[~found].iloc[0]
        raise VireoError(
            f"the activity of viewer {first['viewer_id']!r} at {first['event_timestamp']} wasn't "
            f"kept: only what holds after each of the last {ROWS_KEPT} watches is"
        )
    rows, activities = _activities(repo / "viewer_activity.parquet", counts)
    return [
        _viewer(activities.get(row), watches, likes, attributes)
        for row, watches, likes, attributes in zip(
            rows.tolist(),
            counts["viewer_watch_count"].tolist(),
            counts["viewer_like_count"].tolist(),
            profiles["attributes"].tolist(),
            strict=True,
        )
    ]


def _viewer(
    activity: tuple[Int64Array, Int64Array, Int64Array] | None,
    watches: float,
    likes: float,
    attributes: npt.NDArray[np.object_] | float | None,
) -> ViewerFeatures:
    """One viewer; counts and attributes are NaN or None where nobody knows them."""
    # Feast returns lists as arrays, and NaN or None where there is no row.
    profile = tuple(attributes) if isinstance(attributes, np.ndarray) else ()
    if activity is None:
        return ViewerFeatures(attributes=profile)
    history_keys, history_times, watched_keys = activity
    return ViewerFeatures(
        history_keys=history_keys,
        history_times=history_times,
        watched_keys=watched_keys,
        attributes=profile,
        watch_count=int(watches),
        like_count=int(likes),
    )


def _activities(
    path: Path, counts: pd.DataFrame
) -> tuple[Int64Array, dict[int, tuple[Int64Array, Int64Array, Int64Array]]]:
    """The lists of the rows that `counts` names.

    Returns:
        For each of `counts` its row of the file, -1 where there is none, int64[n]; and by row
        its history_keys, history_times and watched_keys.
    """
    index = pq.read_table(path, columns=_ROW).to_pandas()
    index["file_row"] = np.arange(len(index))
    wanted = counts[_ROW].merge(index, how="left", on=_ROW)["file_row"]
    rows = wanted.fillna(-1).to_numpy(np.int64)
    needed = np.unique(rows[rows >= 0])
    found: dict[int, tuple[Int64Array, Int64Array, Int64Array]] = {}
    start = 0
    file = pq.ParquetFile(path)
    columns = ["history_ids", "history_times", "watched_keys"]
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        inside = needed[np.searchsorted(needed, start) : np.searchsorted(needed, end)]
        if len(inside):
            table = file.read_row_group(group, columns).take(inside - start).combine_chunks()
            lists = zip(*(_lists(table[name].chunk(0)) for name in columns), strict=True)
            found.update(zip(inside.tolist(), lists, strict=True))
        start = end
    return rows, found


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
