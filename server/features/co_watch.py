"""The co-watch score: how strongly a viewer's recent history leads to each video."""

from __future__ import annotations

import numpy as np

from vireo.server.arrays import Float32Array, Int32Array, Int64Array
from vireo.server.features.summed import summed

CO_WATCH_HISTORY = 20
"""Number of last watched videos that count."""
CO_WATCH_HALF_LIFE = 3.0
"""Steps back in the history after which a watch counts half."""
_DECAY = 0.5 ** (np.arange(CO_WATCH_HISTORY)[::-1, None] / CO_WATCH_HALF_LIFE)
"""Weight of each of the last watches, oldest first, float64[CO_WATCH_HISTORY, 1]."""


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
    decay = _DECAY[CO_WATCH_HISTORY - len(recent) :]
    rows, parts = neighbour_rows.take(recent, axis=0), weights.take(recent, axis=0) * decay
    return summed(rows, parts, len(neighbour_rows))
