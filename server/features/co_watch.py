"""The co-watch score: how strongly a viewer's recent history leads to each video."""

from __future__ import annotations

import numpy as np

from server.arrays import Float32Array, Int32Array, Int64Array

CO_WATCH_HISTORY = 20
"""Number of last watched videos that count."""
CO_WATCH_HALF_LIFE = 3.0
"""Steps back in the history after which a watch counts half."""

DENSE_LIMIT = 50_000
"""Up to this many videos, a dense sum takes less time than sorting the rows."""


def co_watched(
    history_rows: Int64Array, neighbour_rows: Int32Array, weights: Float32Array
) -> tuple[Int64Array, Float32Array]:
    """Return the videos that the history leads to, each once.

    Args:
        history_rows: rows of the known videos watched, oldest first, int64[h].
        neighbour_rows: videos that follow each video most, int32[n, k]; -1 pads a row.
        weights: how strongly, float32[n, k] or float16[n, k]; 0 for padding.

    Returns:
        Their rows, ascending, int64[m], and scores above 0, float32[m]: the sum over the
        last CO_WATCH_HISTORY watches of 0.5 ** (steps back / CO_WATCH_HALF_LIFE) x weight.
    """
    recent = history_rows[-CO_WATCH_HISTORY:]
    steps_back = np.arange(len(recent) - 1, -1, -1)
    decay = 0.5 ** (steps_back / CO_WATCH_HALF_LIFE)
    rows = neighbour_rows[recent].ravel()
    parts = (weights[recent] * decay[:, None]).ravel()
    real = rows >= 0
    rows, parts = rows[real], parts[real]
    if len(neighbour_rows) <= DENSE_LIMIT:
        every = np.bincount(rows, parts, minlength=len(neighbour_rows))
        found = np.flatnonzero(every)
        return found, every[found].astype(np.float32)
    found, place = np.unique(rows, return_inverse=True)
    scores = np.bincount(place, parts, minlength=len(found))
    return found.astype(np.int64), scores.astype(np.float32)
