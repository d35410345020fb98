"""Videos' features as they were at given moments, by Feast's point-in-time join."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from server.features.ranking_inputs import LIKE_PRIOR, video_features
from training.features.point_in_time import TIMESTAMP, joined_at
from training.features.repository import open_repository

_FEATURES = [
    "video_statistics:video_watch_count",
    "video_statistics:video_recent_watch_count",
    "video_statistics:video_like_rate",
    "video_statistics:video_age_days",
]
_ROWS_AT_A_TIME = 50_000  # Feast pairs each with all snapshots of its video before it chooses

Float32Array = npt.NDArray[np.float32]


def video_features_at(repo: Path, moments: pd.DataFrame) -> Float32Array:
    """VIDEO_FEATURES of videos at moments, float32[n, 4], in the order of the rows.

    Args:
        repo: a folder of features.
        moments: `video_id` str, `event_timestamp` datetime64[us, UTC].

    Returns:
        The features; of a video nobody knew at the moment: counts 0, the prior like rate, age 0.
    """
    return _features(_statistics_at(repo, moments))


def video_features_of_rows_at(
    repo: Path,
    video_ids: Sequence[str],
    rows: npt.NDArray[np.int64],
    moments: npt.NDArray[np.datetime64],
) -> Float32Array:
    """As `video_features_at`, for millions of rows: each distinct value is joined once.

    Args:
        repo: a folder of features.
        video_ids: the catalogue.
        rows: places in the catalogue, int64[n].
        moments: when, datetime64[us] in UTC, [n].
    """
    snapshots = _snapshots(repo)
    # Before the first snapshot nothing is known.
    times = snapshots.insert(0, snapshots[0] - pd.Timedelta(1, "us"))
    place = times[1:].tz_localize(None).searchsorted(moments, side="right")
    pairs, places = np.unique(place * len(video_ids) + rows, return_inverse=True)
    distinct = {
        "video_id": np.asarray(video_ids, object)[pairs % len(video_ids)],
        TIMESTAMP: times[pairs // len(video_ids)],
    }
    return video_features_at(repo, pd.DataFrame(distinct))[places]


def latest_video_features(repo: Path, video_ids: Sequence[str]) -> Float32Array:
    """VIDEO_FEATURES of videos at the last snapshot, float32[n, 4]."""
    return _features(_statistics_at(repo, _latest(repo, video_ids)))


def latest_popularity(repo: Path, video_ids: Sequence[str]) -> Float32Array:
    """Time-decayed watches of videos at the last snapshot, float32[n]."""
    statistics = _statistics_at(repo, _latest(repo, video_ids))
    return statistics["video_recent_watch_count"].to_numpy(np.float32)


def _latest(repo: Path, video_ids: Sequence[str]) -> pd.DataFrame:
    moment = _snapshots(repo)[-1]
    return pd.DataFrame({"video_id": list(video_ids), TIMESTAMP: moment})


def _snapshots(repo: Path) -> pd.DatetimeIndex:
    """The moments of the snapshots, in order."""
    column = pq.read_table(repo / "video_statistics.parquet", columns=[TIMESTAMP])[TIMESTAMP]
    return pd.DatetimeIndex(column.unique().to_pandas()).sort_values()


def _statistics_at(repo: Path, moments: pd.DataFrame) -> pd.DataFrame:
    """The view's columns at each moment, defaults filled in."""
    # Values change at snapshots alone, so every moment between two of them is one to Feast.
    snapshots = _snapshots(repo)
    times = pd.DatetimeIndex(moments[TIMESTAMP])
    last_before = snapshots.searchsorted(times, side="right") - 1
    rows = pd.DataFrame(
        {
            "video_id": moments["video_id"].to_numpy(),
            TIMESTAMP: times.where(last_before < 0, snapshots[last_before]),
        }
    )
    distinct = rows.drop_duplicates(ignore_index=True)
    store = open_repository(repo)
    parts = [
        joined_at(store, _FEATURES, "video_id", distinct[start : start + _ROWS_AT_A_TIME])[0]
        for start in range(0, max(1, len(distinct)), _ROWS_AT_A_TIME)
    ]
    values = pd.concat(parts, ignore_index=True)
    joined = rows.merge(values, how="left", on=["video_id", TIMESTAMP])
    return joined.fillna(
        {
            "video_watch_count": 0,
            "video_recent_watch_count": 0.0,
            "video_like_rate": LIKE_PRIOR,
            "video_age_days": 0.0,
        }
    )


def _features(statistics: pd.DataFrame) -> Float32Array:
    return video_features(
        statistics["video_watch_count"],
        statistics["video_recent_watch_count"],
        statistics["video_like_rate"],
        statistics["video_age_days"],
    )
