"""Videos that viewers watched soon after those in this viewer's recent history."""

from __future__ import annotations

import numpy as np

from server.arrays import Float32Array, Int64Array
from server.candidate.query import Retrieval
from server.features.co_watch import co_watched


def propose(query: Retrieval) -> Int64Array:
    """Return the videos that the history leads to, strongest first, ties by key."""
    return query.best(*query.once(_reached))


def score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return how strongly the history leads to each video; 0 if it doesn't."""
    reached, found = query.once(_reached)
    if not len(reached):
        return np.zeros(len(rows), np.float32)
    place = np.minimum(np.searchsorted(reached, rows), len(reached) - 1)
    return np.where(reached[place] == rows, found[place], np.float32(0))


def _reached(query: Retrieval) -> tuple[Int64Array, Float32Array]:
    """Return the rows that the history leads to, ascending, and their scores."""
    release = query.release
    return co_watched(query.history_rows, release.co_watch_rows, release.co_watch_weights)
