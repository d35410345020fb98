"""The offline rows of the views viewer_profile and viewer_activity."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from server.features.activity import Activity, Watch
from training.data.schema import TIME

ROWS_KEPT = 12
"""How many of each viewer's last watches are followed by a row: labels are drawn from these."""
_VIEWERS_AT_A_TIME = 512
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
Row = tuple[int, Activity]
"""An activity and the moment since when it holds, Unix microseconds."""


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

    A viewer whose watches all have a row gets one more, the empty activity that holds
    before the first of them, from `since` on.

    Args:
        watches: as `split_watches` makes them, without those for test.
        since: a moment before any watch.
        path: the file to write.
        progress: told how many viewers are done, and of how many.
    """
    start = int(since.timestamp() * _MICROS)
    total = watches["viewer_id"].nunique()
    with pq.ParquetWriter(path, VIEWER_ACTIVITY, compression="zstd") as writer:
        everyone = _all_rows(watches, start)
        for done in range(0, total, _VIEWERS_AT_A_TIME):
            progress(done, total)
            some = list(itertools.islice(everyone, _VIEWERS_AT_A_TIME))
            ids = [viewer_id for viewer_id, rows in some for _ in rows]
            writer.write_batch(_batch(ids, [row for _, rows in some for row in rows]))
        progress(total, total)


def activity_rows(
    video_ids: list[str], times: Int64Array, liked_times: Int64Array, start: int
) -> list[Row]:
    """The rows of one viewer, in order of time.

    Args:
        video_ids: the videos watched, in order.
        times: when, Unix microseconds, increasing, int64[n].
        liked_times: since when each is known to be liked, -1 where it isn't, int64[n].
        start: since when the empty activity holds, Unix microseconds.
    """
    # Likes that came with the watch are part of it; later ones are events of their own.
    late = np.flatnonzero(liked_times > times)
    events: list[tuple[int, Watch | None]] = [
        (time, Watch(video_id, time // _MICROS, liked == time))
        for video_id, time, liked in zip(
            video_ids, times.tolist(), liked_times.tolist(), strict=True
        )
    ]
    if len(late):
        events += [(time, None) for time in liked_times[late].tolist()]
        events.sort(key=lambda event: event[0])
    complete = len(times) <= ROWS_KEPT
    first_kept = start if complete else int(times[-ROWS_KEPT])
    activity = Activity()
    rows: list[Row] = [(start, activity)] if complete else []
    for time, watch in events:
        activity = activity.after_like() if watch is None else activity.after(watch)
        if time >= first_kept:
            if rows and rows[-1][0] == time:
                rows.pop()
            rows.append((time, activity))
    return rows


def _all_rows(watches: pd.DataFrame, start: int) -> Iterator[tuple[str, list[Row]]]:
    """Each viewer and their rows; watches are sorted by viewer, then time."""
    viewers = watches["viewer_id"].to_numpy()
    videos = watches["video_id"].to_numpy()
    times = np.asarray(watches["time"].astype("int64"), np.int64)
    liked = np.asarray(
        watches["liked_time"].astype("int64"), np.int64
    )  # null is the smallest number
    bounds = np.flatnonzero(viewers[1:] != viewers[:-1]) + 1
    for first, end in zip([0, *bounds], [*bounds, len(viewers)], strict=True):
        part = slice(first, end)
        yield viewers[first], activity_rows(videos[part].tolist(), times[part], liked[part], start)


def _batch(ids: list[str], rows: list[Row]) -> pa.RecordBatch:
    activities = [activity for _, activity in rows]
    columns = [
        ids,
        [time for time, _ in rows],
        [activity.history_ids for activity in activities],
        [activity.history_times for activity in activities],
        [activity.watched_keys for activity in activities],
        [activity.watch_count for activity in activities],
        [activity.like_count for activity in activities],
    ]
    arrays = [
        pa.array(column, field.type) for column, field in zip(columns, VIEWER_ACTIVITY, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=VIEWER_ACTIVITY)
