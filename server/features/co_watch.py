"""The co-watch score: how strongly a viewer's recent history leads to each video."""

from __future__ import annotations

import numpy as np

from server.arrays import Float32Array, Int32Array, Int64Array

CO_WATCH_HISTORY = 20
"""Number of last watched videos that count."""
CO_WATCH_HALF_LIFE = 3.0
"""Steps back in the history after which a watch counts half."""
_DECAY = 0.5 ** (np.arange(CO_WATCH_HISTORY)[::-1, None] / CO_WATCH_HALF_LIFE)
"""Weight of each of the last watches, oldest first, float64[CO_WATCH_HISTORY, 1]."""

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
    rows = neighbour_rows.take(recent, axis=0).ravel()
    decay = _DECAY[CO_WATCH_HISTORY - len(recent) :]
    parts = (weights.take(recent, axis=0) * decay).ravel()
    if len(neighbour_rows) <= DENSE_LIMIT:
        # One place further, so that padding counts before the first video.
        every = np.bincount(rows + 1, parts, minlength=len(neighbour_rows) + 1)[1:]
        found = every.nonzero()[0]
        return found, every[found].astype(np.float32)
    real = rows >= 0
    rows, parts = rows[real], parts[real]
    found, place = np.unique(rows, return_inverse=True)
    scores = np.bincount(place, parts, minlength=len(found))
    return found.astype(np.int64), scores.astype(np.float32)
