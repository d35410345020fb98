"""Leaks in the feature store's offline tables, which the ranker's features are joined from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tests.builders.leaks.timeline import Timeline
from vireo.server.arrays import Float64Array, Int64Array
from vireo.server.features.keys import VideoRows
from vireo.server.features.model_inputs import LIKE_PRIOR, LIKE_PRIOR_COUNT
from vireo.training.features.statistics import HALF_LIFE_DAYS

_HALF_LIFE = HALF_LIFE_DAYS * 86_400 * 1_000_000
"""Microseconds."""
_TOLERANCE = 1e-3
"""Relative, for sums in float32."""


def check_activity(timeline: Timeline, repo: Path, keys: VideoRows) -> None:
    """Check that rows of viewer_activity have only what the viewer had done by their time."""
    table = pq.read_table(repo / "viewer_activity.parquet")
    viewers = timeline.viewer_numbers(table["viewer_id"].to_pylist())
    # A row is valid from its time on, and includes what happens at that time.
    moments = _micros(table) + 1
    latest = timeline.rows[np.searchsorted(timeline.viewers, viewers, side="right") - 1]
    late = moments > timeline.test_times[viewers]
    timeline.forbid("a row of viewer_activity", late, viewers, latest)
    which, values = _flat(table["watched_keys"])
    rows = keys.find(values.to_numpy())
    timeline.require_past("viewer_activity.watched_keys", viewers[which], rows, moments[which])
    which, times = _flat(table["history_times"])
    late = times.to_numpy() > (moments[which] - 1) // 1_000_000
    timeline.forbid("viewer_activity.history_times", late, viewers[which], latest[which])
    for name, known in (
        ("viewer_watch_count", timeline.viewer_watches),
        ("viewer_like_count", timeline.viewer_likes),
    ):
        above = table[name].to_numpy() > known.before(viewers, moments)
        timeline.forbid(f"viewer_activity.{name}", above, viewers, latest)


def check_statistics(timeline: Timeline, repo: Path) -> None:
    """Check that snapshots of the videos count only events up to their time, none of the test."""
    table = pq.read_table(repo / "video_statistics.parquet")
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
        require_recent(
            timeline,
            "video_statistics.video_recent_watch_count",
            recent[own],
            int(moment),
            rows[own],
        )


def require_recent(
    timeline: Timeline,
    where: str,
    given: npt.NDArray[np.floating],
    moment: int,
    rows: Int64Array,
) -> None:
    """Raise LeakError if decayed counts of the videos at `rows` exceed the events up to a time.

    Each watch halves every HALF_LIFE_DAYS.
    """
    past = ~timeline.test & (timeline.times <= moment)
    weights = 0.5 ** ((moment - timeline.times[past]) / _HALF_LIFE)
    known = np.bincount(timeline.rows[past], weights, minlength=timeline.video_count)[rows]
    timeline.forbid_videos(where, given - known > _TOLERANCE * np.maximum(known, 1), rows)


def likes_of(rate: npt.NDArray[np.floating], watches: npt.NDArray[np.number]) -> Float64Array:
    """Return the number of likes that a like rate was computed from."""
    weights = np.asarray(watches, np.float64) + LIKE_PRIOR_COUNT
    return np.asarray(rate, np.float64) * weights - LIKE_PRIOR * LIKE_PRIOR_COUNT


def _micros(table: pa.Table) -> Int64Array:
    times = table["event_timestamp"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return np.asarray(times.to_numpy(), np.int64)


def _flat(column: pa.ChunkedArray) -> tuple[Int64Array, pa.Array]:
    """Return the row of each value of a column of lists, and all values."""
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks)
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    return np.repeat(np.arange(len(lengths)), lengths), lists.flatten()
