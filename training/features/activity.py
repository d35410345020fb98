"""The offline rows of the views viewer_profile and viewer_activity."""

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

from server.features.activity import HISTORY_LIMIT, WATCHED_LIMIT
from server.features.keys import video_keys
from training.data.schema import TIME

ROWS_KEPT = 12
"""How many of each viewer's last watches are followed by a row: labels are drawn from these."""
_KEYS_AT_A_TIME = 4_000_000
"""Bounds the memory of the rows that are made at a time: some 50 bytes for each key in them."""
_MICROS = 1_000_000

VIEWER_ACTIVITY = pa.schema(
    [
        pa.field("viewer_id", pa.string()),
        pa.field("event_timestamp", TIME),
        pa.field("history_ids", pa.list_(pa.string())),
        pa.field("history_times", pa.list_(pa.int64())),
        pa.field("watched_keys", pa.list_(pa.int64())),
        pa.field("viewer_watch_count", pa.int64()),
        pa.field("viewer_like_count", pa.int64()),
    ]
)

Int64Array = npt.NDArray[np.int64]


def write_viewer_profile(viewers: pd.DataFrame, since: datetime, path: Path) -> None:
    """Writes one row a viewer, valid from `since` on: profiles come without a time."""
    table = pa.table(
        {
            "viewer_id": pa.array(viewers["viewer_id"], pa.string()),
            "event_timestamp": pa.array([since] * len(viewers), TIME),
            "attributes": pa.array(viewers["attributes"], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, path, compression="zstd")


def write_viewer_activity(
    watches: pd.DataFrame, since: datetime, path: Path, progress: Callable[[int, int], None]
) -> None:
    """Writes a row after each of every viewer's last ROWS_KEPT watches that aren't for test.

    A row holds what `server.features.activity.Activity` holds after the same events, which tests
    compare. A viewer whose watches all have a row gets one more, the empty activity that holds
    before the first of them, from `since` on.

    Args:
        watches: as `split_watches` makes them, without those for test.
        since: a moment before any watch.
        path: the file to write.
        progress: told how many viewers are done, and of how many.
    """
    start = int(since.timestamp() * _MICROS)
    # Rows are sorted by viewer, then time.
    viewer, names = _numbered(watches["viewer_id"])
    video, video_ids = _numbered(watches["video_id"])
    ids, keys = pa.array(video_ids, pa.string()), video_keys(video_ids.tolist())
    times = np.asarray(watches["time"].astype("int64"), np.int64)
    # Null is the smallest number.
    liked = np.asarray(watches["liked_time"].astype("int64"), np.int64)
    offsets = np.searchsorted(viewer, np.arange(len(names) + 1))
    with pq.ParquetWriter(path, VIEWER_ACTIVITY, compression="zstd") as writer:
        for first, last in _parts(np.diff(offsets)):
            progress(first, len(names))
            part = slice(offsets[first], offsets[last])
            rows = activity_rows(
                offsets[first : last + 1] - offsets[first], times[part], liked[part], start
            )
            own = video[part]
            history = _spans(rows.begin, rows.seen, HISTORY_LIMIT)
            watched = _spans(rows.begin, rows.seen, WATCHED_LIMIT)
            columns = [
                pa.array(names[first + rows.viewer], pa.string()),
                pa.array(rows.time, TIME),
                pa.ListArray.from_arrays(history[0], ids.take(pa.array(own[history[1]]))),
                pa.ListArray.from_arrays(history[0], pa.array(times[part][history[1]] // _MICROS)),
                pa.ListArray.from_arrays(watched[0], pa.array(keys[own[watched[1]]])),
                pa.array(rows.seen),
                pa.array(rows.likes),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=VIEWER_ACTIVITY))
        progress(len(names), len(names))


def _numbered(ids: pd.Series) -> tuple[Int64Array, npt.NDArray[np.object_]]:
    """Return a number for each id, by its first appearance, int64[n], and the id of each number."""
    numbers, texts = pd.factorize(ids)
    return numbers.astype(np.int64, copy=False), np.asarray(texts, object)


def _parts(watches: Int64Array) -> Iterator[tuple[int, int]]:
    """Yield first and end of runs of viewers whose rows hold about _KEYS_AT_A_TIME keys.

    Args:
        watches: how many each viewer has, int64[viewers].
    """
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
    """What some viewers had done by the moments that rows hold from; by viewer, then time."""

    viewer: Int64Array
    """Number of the viewer among them, int64[r]."""
    time: Int64Array
    """Since when the row holds, Unix microseconds, int64[r]."""
    begin: Int64Array
    """Place of the viewer's first watch, int64[r]."""
    seen: Int64Array
    """How many videos the viewer has watched by then, int64[r]."""
    likes: Int64Array
    """How many of them the viewer has liked by then, int64[r]."""


def activity_rows(
    offsets: Int64Array, times: Int64Array, liked_times: Int64Array, start: int
) -> ActivityRows:
    """The rows of some viewers.

    Args:
        offsets: viewer i's watches are at `offsets[i]` to `offsets[i + 1]`, int64[viewers + 1].
        times: when, Unix microseconds, increasing within a viewer, int64[w].
        liked_times: since when each is known to be liked, negative where it isn't, int64[w].
        start: since when the empty activity holds, Unix microseconds.
    """
    counts = np.diff(offsets)
    viewer = np.repeat(np.arange(len(counts)), counts)
    complete = counts <= ROWS_KEPT
    first_kept = np.where(complete, start, times[np.maximum(offsets[1:] - ROWS_KEPT, offsets[:-1])])
    # Likes that came with the watch are part of it; later ones are events of their own.
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
    # Of several events at one moment, the row after the last of them.
    row = np.ones(len(who), np.bool_)
    row[:-1] = (who[1:] != who[:-1]) | (when[1:] != when[:-1])
    row &= when >= first_kept[who]
    before = np.concatenate([[0], likes])[np.searchsorted(who, who[row])]
    begin = offsets[who[row]]
    return ActivityRows(who[row], when[row], begin, seen[row] - begin, likes[row] - before)


def _spans(begin: Int64Array, seen: Int64Array, limit: int) -> tuple[pa.Array, Int64Array]:
    """The places of each row's last `limit` watches: offsets of its list, and all of them."""
    lengths = np.minimum(seen, limit)
    ends = np.cumsum(lengths)
    first = np.repeat(begin + seen - ends, lengths)
    places = first + np.arange(int(ends[-1]) if len(ends) else 0)
    return pa.array(np.concatenate([[0], ends]).astype(np.int32)), places
