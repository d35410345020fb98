"""Co-watch scores as a column of all videos."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vireo.server.features.history_scores import co_watched


def co_watch_scores(
    history_rows: npt.NDArray[np.int64],
    neighbour_rows: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """The score of every video, float32[n]: that of `co_watched`, 0 for the others."""
    scores = np.zeros(len(neighbour_rows), np.float32)
    rows, found = co_watched(history_rows, neighbour_rows, weights)
    scores[rows] = found
    return scores
