"""Viewers of tiny releases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vireo.server.features.keys import video_keys
from vireo.server.features.viewer import ViewerFeatures


def viewer_of_rows(
    *history: int, watched: Sequence[int] = (), attributes: Sequence[str] = ()
) -> ViewerFeatures:
    """A viewer with the videos of the given rows in the history, oldest first.

    Args:
        history: rows of the videos watched last.
        watched: rows of videos watched before those.
        attributes: profile attributes.
    """
    keys = video_keys([f"video-{row}" for row in history])
    older = video_keys([f"video-{row}" for row in watched])
    return ViewerFeatures(
        history_keys=keys,
        history_times=np.arange(len(keys), dtype=np.int64),
        watched_keys=np.concatenate([older, keys]),
        attributes=tuple(attributes),
        watch_count=len(keys) + len(older),
    )
