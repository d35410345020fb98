"""Viewers' features as they were at given moments, by Feast's point-in-time join."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from server.errors import VireoError
from server.features.keys import video_key
from server.features.viewer import ViewerFeatures
from training.features.activity import ROWS_KEPT
from training.features.point_in_time import joined_at
from training.features.repository import open_repository

SERVICE = "viewer_serving"


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
    joined, found = joined_at(open_repository(repo), SERVICE, "viewer_id", moments)
    if not found.all():
        first = moments[~found].iloc[0]
        raise VireoError(
            f"the activity of viewer {first['viewer_id']!r} at {first['event_timestamp']} wasn't "
            f"kept: only what holds after each of the last {ROWS_KEPT} watches is"
        )
    keys: dict[str, int] = {}
    columns = [
        joined[name].tolist()
        for name in (
            "history_ids",
            "history_times",
            "watched_keys",
            "attributes",
            "viewer_watch_count",
            "viewer_like_count",
        )
    ]
    return [_viewer(keys, *values) for values in zip(*columns, strict=True)]


def _viewer(
    keys: dict[str, int],
    ids: Any,
    times: Any,
    watched: Any,
    attributes: Any,
    watch_count: float,
    like_count: float,
) -> ViewerFeatures:
    """One row of the join; a missing value is None or NaN. `keys` remembers hashes."""
    profile = tuple(attributes) if _present(attributes) else ()
    if not _present(ids):
        return ViewerFeatures(attributes=profile)
    for video_id in ids:
        if video_id not in keys:
            keys[video_id] = video_key(video_id)
    return ViewerFeatures(
        history_keys=np.array([keys[video_id] for video_id in ids], np.int64),
        history_times=np.asarray(times, np.int64),
        watched_keys=np.asarray(watched, np.int64),
        attributes=profile,
        watch_count=int(watch_count),
        like_count=int(like_count),
    )


def _present(value: Any) -> bool:
    """Whether a list-valued cell holds a list."""
    return value is not None and not isinstance(value, float)
