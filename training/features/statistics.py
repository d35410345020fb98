"""Point-in-time features of videos: written for every video at several snapshots, and read again.

Training sets and evaluation look videos up here as of a request; pods have the last snapshot.
Statistics change only at snapshots, and the file has a part for each: the latest values at a time
are those of the last snapshot at or before it. Feast's point-in-time join finds the same, but
first pairs each time with all snapshots of its video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vireo.server.arrays import Float32Array, Float64Array, Int64Array
from vireo.server.features.model_inputs import LIKE_PRIOR, like_rate, video_features
from vireo.training.data.split import micros
from vireo.training.features.definitions import TIMESTAMP, file_schema, video_statistics

SNAPSHOTS = 64
"""Number of snapshots, evenly spread over the watches, besides the last one."""
ROWS = 16_000_000
"""Approximate maximum number of rows: large catalogues get fewer snapshots."""
MIN_SNAPSHOTS = 8
HALF_LIFE_DAYS = 30.0
"""Half-life of a watch in the recent watch count."""
_DAY = 86_400 * 1_000_000  # microseconds

_NEVER = np.iinfo(np.int64).max
_COLUMNS = [field.name for field in video_statistics.features]
_UNKNOWN = (0.0, 0.0, LIKE_PRIOR, 0.0)
"""Values of a video that is unknown at the time."""


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
    moments = micros(times)
    order = np.argsort(moments, kind="stable")
    return rows[order], moments[order]


def snapshot_moments(times: Int64Array, videos: int) -> list[int]:
    """Return the times of the snapshots, increasing, up to that of the last watch.

    `times` are those of the watches, Unix microseconds, sorted, int64[n], n >= 1.
    """
    count = max(MIN_SNAPSHOTS, min(SNAPSHOTS, ROWS // max(videos, 1)))
    positions = np.arange(count) * len(times) // count
    return [int(moment) for moment in np.unique(np.append(times[positions], times[-1]))]


class Snapshots:
    """The file of the view video_statistics, one snapshot at a time."""

    def __init__(self, repo: Path, video_ids: Sequence[str]) -> None:
        """Open the snapshots in feature folder `repo`; `video_ids` are the videos' ids by row."""
        self._file = pq.ParquetFile(repo / "video_statistics.parquet")
        self._ids = pd.Index(list(video_ids))
        column = self._file.schema_arrow.get_field_index(TIMESTAMP)
        starts = [
            self._file.metadata.row_group(group).column(column).statistics.min
            for group in range(self._file.num_row_groups)
        ]
        self._groups = pd.DatetimeIndex(starts).as_unit("us")
        self.moments: pd.DatetimeIndex = self._groups.unique().sort_values()
        """Times of the snapshots, increasing."""

    def before(self, moments: npt.NDArray[np.datetime64]) -> Int64Array:
        """Return the index of the last snapshot at or before each time, int64[m]; -1 for none."""
        times = pd.DatetimeIndex(moments, tz="UTC")
        return np.asarray(self.moments.searchsorted(times, side="right") - 1, np.int64)

    def values(self, snapshot: int) -> Float64Array:
        """Return _COLUMNS of every video at a snapshot, float64[n, 4]; _UNKNOWN if unknown."""
        found = np.tile(np.array(_UNKNOWN), (len(self._ids), 1))
        if snapshot < 0:
            return found
        for group in np.flatnonzero(self._groups == self.moments[snapshot]):
            table = self._file.read_row_group(int(group), ["video_id", *_COLUMNS])
            rows = self._ids.get_indexer(pd.Index(table["video_id"].to_pandas()))
            read = [table[name].to_numpy().astype(np.float64) for name in _COLUMNS]
            found[rows[rows >= 0]] = np.stack(read, axis=1)[rows >= 0]
        return found

    def features(self, snapshot: int) -> Float32Array:
        """Return VIDEO_FEATURES of every video at a snapshot, float32[n, 4]."""
        return video_features(*self.values(snapshot).T)


def just_before(asked_at: Int64Array) -> npt.NDArray[np.datetime64]:
    """Return the last microsecond before each request's second, given in Unix seconds."""
    return (asked_at * 1_000_000 - 1).astype("datetime64[us]")


def video_features_at(
    repo: Path,
    video_ids: Sequence[str],
    rows: Int64Array,
    moments: npt.NDArray[np.datetime64],
) -> Float32Array:
    """Return VIDEO_FEATURES of lists of videos, each at its own time, float32[m, n, 4]; 0 for none.

    Args:
        repo: a feature folder.
        video_ids: the catalogue.
        rows: rows of the catalogue, -1 for none, int64[m, n].
        moments: time of each list, datetime64[us] in UTC, [m].
    """
    # Only videos that occur are looked up; the last entry is that of row -1.
    used = np.zeros(len(video_ids) + 1, np.bool_)
    used[rows], used[-1] = True, True
    place = np.cumsum(used) - 1
    snapshots = Snapshots(repo, [video_ids[row] for row in np.flatnonzero(used[:-1]).tolist()])
    before = snapshots.before(moments)
    features = np.empty((*rows.shape, len(_COLUMNS)), np.float32)
    nothing = np.zeros((1, len(_COLUMNS)), np.float32)
    for snapshot in np.unique(before).tolist():
        own = before == snapshot
        table = np.concatenate([snapshots.features(snapshot), nothing])
        features[own] = table[place[rows[own]]]
    return features


def latest(repo: Path, video_ids: Sequence[str]) -> tuple[Float32Array, Float32Array]:
    """Return VIDEO_FEATURES of videos at the last snapshot, float32[n, 4], and their popularity.

    It is the time-decayed number of watches, float32[n].
    """
    snapshots = Snapshots(repo, video_ids)
    values = snapshots.values(len(snapshots.moments) - 1)
    return video_features(*values.T), values[:, 1].astype(np.float32)
