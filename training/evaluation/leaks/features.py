"""Leaks in the feature store's offline tables, which the ranker's features are joined from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from server.features.ranking_inputs import LIKE_PRIOR, LIKE_PRIOR_COUNT
from server.features.video_rows import VideoRows
from training.evaluation.leaks.timeline import Timeline
from training.features.snapshots import HALF_LIFE_DAYS

Int64Array = npt.NDArray[np.int64]
_HALF_LIFE = HALF_LIFE_DAYS * 86_400 * 1_000_000
"""Microseconds."""
ROWS_CHECKED = 1_000_000
"""More rows would take longer to check than to make."""
_TOLERANCE = 1e-3
"""Relative, of sums in float32."""


def check_activity(timeline: Timeline, repo: Path, keys: VideoRows) -> None:
    """Every row of viewer_activity knows only what its viewer had done by its time.

    Of more than ROWS_CHECKED rows, those of some parts of the file.
    """
    file = pq.ParquetFile(repo / "viewer_activity.parquet")
    step = -(-file.metadata.num_rows // ROWS_CHECKED) or 1
    for group in range(0, file.num_row_groups, step):
        _check_activity_rows(timeline, file.read_row_group(group), keys)


def _check_activity_rows(timeline: Timeline, table: pa.Table, keys: VideoRows) -> None:
    viewers = timeline.viewer_numbers(table["viewer_id"].to_pylist())
    # A row holds from its moment on, so what happens at that moment is known.
    moments = _micros(table) + 1
    late = moments > timeline.test_times[viewers]
    if late.any():
        first = int(np.argmax(late))
        own = np.flatnonzero((timeline.viewers == viewers[first]) & timeline.test)[0]
        timeline.report("a row of viewer_activity", int(viewers[first]), int(timeline.rows[own]))
    for name in ("watched_keys", "history_ids"):
        which, values = _flat(table[name])
        if pa.types.is_string(values.type):
            encoded = values.dictionary_encode()
            rows = timeline.video_rows(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]
        else:
            rows = keys.find(values.to_numpy())
        timeline.require_past(f"viewer_activity.{name}", viewers[which], rows, moments[which])
    which, times = _flat(table["history_times"])
    late = times.to_numpy() > (moments[which] - 1) // 1_000_000
    if late.any():
        at = int(np.argmax(late))
        timeline.report("viewer_activity.history_times", int(viewers[which[at]]), int(rows[at]))
    for name, known in (
        ("viewer_watch_count", timeline.viewer_watches),
        ("viewer_like_count", timeline.viewer_likes),
    ):
        above = table[name].to_numpy() > known.before(viewers, moments)
        if above.any():
            first = int(np.argmax(above))
            latest = timeline.viewers == viewers[first]
            row = int(timeline.rows[np.flatnonzero(latest)[-1]])
            timeline.report(f"viewer_activity.{name}", int(viewers[first]), row)


def check_statistics(timeline: Timeline, repo: Path) -> None:
    """Every snapshot of the videos counts events up to its moment, and none of the test part.

    Of more than ROWS_CHECKED rows, some of the snapshots, the last included.
    """
    file = pq.ParquetFile(repo / "video_statistics.parquet")
    step = -(-file.metadata.num_rows // ROWS_CHECKED) or 1
    for group in range(file.num_row_groups - 1, -1, -step):
        _check_statistics_rows(timeline, file.read_row_group(group))


def _check_statistics_rows(timeline: Timeline, table: pa.Table) -> None:
    rows, moments = timeline.video_rows(table["video_id"].to_pylist()), _micros(table)
    counts = table["video_watch_count"].to_numpy()
    known = timeline.video_watches.before(rows, moments + 1)
    timeline.require_at_most("video_statistics.video_watch_count", counts, known, rows)
    likes = likes_of(table["video_like_rate"].to_numpy(), counts)
    known = timeline.video_likes.before(rows, moments + 1)
    timeline.require_at_most("video_statistics.video_like_rate", likes, known, rows)
    recent = table["video_recent_watch_count"].to_numpy()
    for moment in np.unique(moments):
        own = moments == moment
        expected = recent_watches(timeline, int(moment))[rows[own]]
        excess = recent[own] - expected > _TOLERANCE * np.maximum(expected, 1)
        if excess.any():
            timeline.report_video(
                "video_statistics.video_recent_watch_count", int(rows[own][np.argmax(excess)])
            )


def recent_watches(timeline: Timeline, moment: int) -> npt.NDArray[np.float64]:
    """Watches of each video up to a moment, each halved every HALF_LIFE_DAYS, float64[n]."""
    past = ~timeline.test & (timeline.times <= moment)
    weights = 0.5 ** ((moment - timeline.times[past]) / _HALF_LIFE)
    counts = np.bincount(timeline.rows[past], weights, minlength=timeline.video_count)
    return counts.astype(np.float64)


def likes_of(
    rate: npt.NDArray[np.floating], watches: npt.NDArray[np.number]
) -> npt.NDArray[np.float64]:
    """The likes that a like rate was made of."""
    weights = np.asarray(watches, np.float64) + LIKE_PRIOR_COUNT
    return np.asarray(rate, np.float64) * weights - LIKE_PRIOR * LIKE_PRIOR_COUNT


def _micros(table: pa.Table) -> Int64Array:
    times = table["event_timestamp"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return np.asarray(times.to_numpy(), np.int64)


def _flat(column: pa.ChunkedArray) -> tuple[Int64Array, pa.Array]:
    """Which row each value of a column of lists is of, and all values."""
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks)
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    return np.repeat(np.arange(len(lengths)), lengths), lists.flatten()
