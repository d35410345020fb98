"""Videos that viewers watched soon after those in this viewer's recent history."""

from __future__ import annotations

import numpy as np

from server.arrays import Float32Array, Int64Array
from server.candidate.query import Retrieval
from server.features.co_watch import co_watched


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the videos that the history leads to, strongest first, ties by key."""
    return query.best(*query.once(_reached), limit)


def score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return how strongly the history leads to each video; 0 if it doesn't."""
    reached, found = query.once(_reached)
    # Of a column of all videos only what is read is written: it takes no time to make.
    every = np.empty(len(query.release.keys), np.float32)
    every[rows] = 0
    every[reached] = found
    return every[rows]


def _reached(query: Retrieval) -> tuple[Int64Array, Float32Array]:
    """Return the rows that the history leads to, ascending, and their scores."""
    release = query.release
    return co_watched(query.history_rows, release.co_watch_rows, release.co_watch_weights)
