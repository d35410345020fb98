"""The offline rows of the views viewer_profile, viewer_activity and viewer_hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vireo.server.arrays import Int64Array
from vireo.server.features.activity import HISTORY_LIMIT, WATCHED_LIMIT
from vireo.server.features.keys import video_keys
from vireo.training.data.schema import TIME
from vireo.training.features.definitions import file_schema, viewer_activity, viewer_profile

ROWS_KEPT = 12
"""Number of each viewer's last watches that get a row; labels are drawn from these."""
_KEYS_AT_A_TIME = 4_000_000
"""Keys in the rows built at a time, some 50 bytes each; bounds the memory."""
_MICROS = 1_000_000


def write_viewer_profile(viewers: pd.DataFrame, since: datetime, path: Path) -> None:
    """Write one row per viewer, valid from `since` on; profiles have no time of their own."""
    columns = [viewers["viewer_id"], [since] * len(viewers), viewers["attributes"]]
    table = pa.table(columns, schema=file_schema(viewer_profile))
    pq.write_table(table, path, compression="zstd")


def write_viewer_activity(
    watches: pd.DataFrame, since: datetime, path: Path, progress: Callable[[int, int], None]
) -> None:
    """Write one row after each of a viewer's last ROWS_KEPT watches that aren't for test.

    A viewer whose watches all have a row gets one more: the empty activity, valid from `since`
    until the first watch. `watches` is the output of `split_watches`, without the test part;
    `progress` gets the number of viewers done and their total.
    """
    start = int(since.timestamp() * _MICROS)
    schema = file_schema(viewer_activity)
    # Rows are sorted by viewer, then time.
    viewer, names = _numbered(watches["viewer_id"])
    video, video_ids = _numbered(watches["video_id"])
    keys = video_keys(video_ids.tolist())
    times = np.asarray(watches["time"].astype("int64"), np.int64)
    # Null becomes the minimum int64.
    liked = np.asarray(watches["liked_time"].astype("int64"), np.int64)
    offsets = np.searchsorted(viewer, np.arange(len(names) + 1))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first, last in _parts(np.diff(offsets)):
            progress(first, len(names))
            part = slice(offsets[first], offsets[last])
            rows = activity_rows(
                offsets[first : last + 1] - offsets[first], times[part], liked[part], start
            )
            history = _spans(rows.begin, rows.seen, HISTORY_LIMIT)
            offsets_watched, watched = _spans(rows.begin, rows.seen, WATCHED_LIMIT)
            own, own_times, own_likes = video[part], times[part], liked[part]
            by_then = np.repeat(rows.time, np.diff(offsets_watched))
            known = (own_likes[watched] >= 0) & (own_likes[watched] <= by_then)
            columns = [
                pa.array(names[first + rows.viewer], pa.string()),
                pa.array(rows.time, TIME),
                pa.ListArray.from_arrays(history[0], pa.array(own_times[history[1]] // _MICROS)),
                pa.ListArray.from_arrays(offsets_watched, pa.array(keys[own[watched]])),
                pa.ListArray.from_arrays(offsets_watched, pa.array(own_times[watched])),
                pa.ListArray.from_arrays(offsets_watched, pa.array(known)),
                pa.array(rows.seen),
                pa.array(rows.likes),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        progress(len(names), len(names))


def _numbered(ids: pd.Series) -> tuple[Int64Array, npt.NDArray[np.object_]]:
    """Number ids by first appearance: return each id's number, int64[n], and the distinct ids."""
    numbers, texts = pd.factorize(ids)
    return numbers.astype(np.int64, copy=False), np.asarray(texts, object)


def _parts(watches: Int64Array) -> Iterator[tuple[int, int]]:
    """Yield start and end of runs of viewers with about _KEYS_AT_A_TIME keys, by watch count."""
    keys = np.cumsum(np.minimum(watches, WATCHED_LIMIT) * (ROWS_KEPT + 1))
    first = 0
    while first < len(keys):
        done = keys[first - 1] if first else 0
        fit = int(np.searchsorted(keys, done + _KEYS_AT_A_TIME, side="right"))
        last = max(fit, first + 1)
        yield first, last
        first = last


@dataclass(frozen=True)
class ActivityRows:
    """Activity of some viewers at the times of their rows; sorted by viewer, then time."""

    viewer: Int64Array
    """Index of the row's viewer, int64[r]."""
    time: Int64Array
    """Time from which the row is valid, Unix microseconds, int64[r]."""
    begin: Int64Array
    """Index of the viewer's first watch, int64[r]."""
    seen: Int64Array
    """Number of videos the viewer has watched by then, int64[r]."""
    likes: Int64Array
    """Number of these that the viewer has liked by then, int64[r]."""


def activity_rows(
    offsets: Int64Array, times: Int64Array, liked_times: Int64Array, start: int
) -> ActivityRows:
    """Return the activity rows of some viewers.

    Args:
        offsets: viewer i's watches are at `offsets[i]` to `offsets[i + 1]`, int64[viewers + 1].
        times: watch times, Unix microseconds, increasing within a viewer, int64[w].
        liked_times: when each like became known, negative if not liked, int64[w].
        start: time from which the empty activity is valid, Unix microseconds.
    """
    counts = np.diff(offsets)
    viewer = np.repeat(np.arange(len(counts)), counts)
    complete = counts <= ROWS_KEPT
    first_kept = np.where(complete, start, times[np.maximum(offsets[1:] - ROWS_KEPT, offsets[:-1])])
    # A like at the time of its watch belongs to it; a later one is a separate event.
    late = np.flatnonzero(liked_times > times)
    empty = np.flatnonzero(complete)
    who = np.concatenate([empty, viewer, viewer[late]])
    when = np.concatenate([np.full(len(empty), start), times, liked_times[late]])
    zeros = np.zeros(len(empty), np.int64)
    watch = np.concatenate([zeros, np.ones(len(times), np.int64), np.zeros(len(late), np.int64)])
    like = np.concatenate(
        [zeros, (liked_times == times).astype(np.int64), np.ones(len(late), np.int64)]
    )
    order = np.lexsort((when, who))
    who, when = who[order], when[order]
    seen, likes = np.cumsum(watch[order]), np.cumsum(like[order])
    # Events at the same time share one row, after the last of them.
    row = np.ones(len(who), np.bool_)
    row[:-1] = (who[1:] != who[:-1]) | (when[1:] != when[:-1])
    row &= when >= first_kept[who]
    before = np.concatenate([[0], likes])[np.searchsorted(who, who[row])]
    begin = offsets[who[row]]
    return ActivityRows(who[row], when[row], begin, seen[row] - begin, likes[row] - before)


def _spans(begin: Int64Array, seen: Int64Array, limit: int) -> tuple[pa.Array, Int64Array]:
    """Return list offsets and indices of each row's last `limit` watches."""
    lengths = np.minimum(seen, limit)
    ends = np.cumsum(lengths)
    first = np.repeat(begin + seen - ends, lengths)
    places = first + np.arange(int(ends[-1]) if len(ends) else 0)
    return pa.array(np.concatenate([[0], ends]).astype(np.int32)), places
