"""The offline rows of the view video_statistics: every video at several snapshots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vireo.server.arrays import Int64Array
from vireo.server.features.ranking_inputs import like_rate
from vireo.training.features.definitions import file_schema, video_statistics

SNAPSHOTS = 64
"""Number of snapshots, evenly spread over the watches, besides the last one."""
ROWS = 16_000_000
"""Approximate maximum number of rows: large catalogues get fewer snapshots."""
MIN_SNAPSHOTS = 8
HALF_LIFE_DAYS = 30.0
"""Half-life of a watch in the recent watch count."""
_DAY = 86_400 * 1_000_000  # microseconds

_NEVER = np.iinfo(np.int64).max


def write_video_statistics(
    watches: pd.DataFrame, videos: pd.DataFrame, path: Path, progress: Callable[[int, int], None]
) -> None:
    """Write the statistics of every known video at every snapshot.

    A snapshot at T covers the watches up to and including T and the likes known at T. A video is
    known from its publication or first watch on; before that it has no row. `watches` is the output
    of `split_watches`, without the test part; `progress` gets the number of snapshots done and
    their total.
    """
    ids = videos["video_id"].to_numpy()
    watched_rows = pd.Index(ids).get_indexer(pd.Index(watches["video_id"]))
    rows, times = _in_order(watched_rows, watches["time"])
    liked_ones = watches["liked_time"].notna().to_numpy()
    like_rows, like_times = _in_order(watched_rows[liked_ones], watches["liked_time"][liked_ones])
    published = videos["published"].astype("int64").where(videos["published"].notna(), _NEVER)
    born = published.to_numpy()

    watch_count = np.zeros(len(ids), np.int64)
    like_count = np.zeros(len(ids), np.int64)
    recent = np.zeros(len(ids))
    first_watch = np.full(len(ids), _NEVER)
    before, seen, liked = int(times[0]), 0, 0
    moments = snapshot_moments(times, len(ids))
    schema = file_schema(video_statistics)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for done, moment in enumerate(moments, start=1):
            end = int(np.searchsorted(times, moment, side="right"))
            new, new_times = rows[seen:end], times[seen:end]
            recent *= 0.5 ** ((moment - before) / _DAY / HALF_LIFE_DAYS)
            weights = 0.5 ** ((moment - new_times) / _DAY / HALF_LIFE_DAYS)
            recent += np.bincount(new, weights, minlength=len(ids))
            watch_count += np.bincount(new, minlength=len(ids))
            np.minimum.at(first_watch, new, new_times)
            like_end = int(np.searchsorted(like_times, moment, side="right"))
            like_count += np.bincount(like_rows[liked:like_end], minlength=len(ids))
            since = np.where(born <= moment, born, first_watch)
            known = since <= moment
            columns = [
                ids[known],
                np.full(known.sum(), moment),
                watch_count[known],
                recent[known].astype(np.float32),
                like_rate(like_count, watch_count)[known].astype(np.float32),
                ((moment - since[known]) / _DAY).astype(np.float32),
            ]
            arrays = [pa.array(*column) for column in zip(columns, schema.types, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            before, seen, liked = moment, end, like_end
            progress(done, len(moments))


def _in_order(
    rows: npt.NDArray[np.intp], times: pd.Series
) -> tuple[npt.NDArray[np.intp], Int64Array]:
    """Return rows and times, in Unix microseconds, sorted by time."""
    micros = times.to_numpy("datetime64[us]").view(np.int64)
    order = np.argsort(micros, kind="stable")
    return rows[order], micros[order]


def snapshot_moments(times: Int64Array, videos: int) -> list[int]:
    """Return the times of the snapshots, increasing, up to that of the last watch.

    `times` are those of the watches, Unix microseconds, sorted, int64[n], n >= 1.
    """
    count = max(MIN_SNAPSHOTS, min(SNAPSHOTS, ROWS // max(videos, 1)))
    positions = np.arange(count) * len(times) // count
    return [int(moment) for moment in np.unique(np.append(times[positions], times[-1]))]
