"""Videos that EASE, an item-to-item model, predicts from all watches."""

from __future__ import annotations

import numpy as np

from server.arrays import Float32Array, Int64Array
from server.candidate.query import Retrieval
from server.features.ease import ease_scores


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the videos with a positive EASE score, best first, ties by key.

    There are none without a watch, or in a catalogue too large for EASE.
    """
    scores = query.once(_every_score)
    rows = (scores > 0).nonzero()[0]
    return query.best(rows, scores.take(rows), limit)


def score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return the EASE score of each video."""
    scores = query.once(_every_score)
    return scores[rows] if len(scores) else np.zeros(len(rows), np.float32)


def _every_score(query: Retrieval) -> Float32Array:
    """Return the EASE score of every video, float32[n]; empty if the release has no EASE."""
    release = query.release
    if not release.ease_rows.shape[1]:
        return np.empty(0, np.float32)
    return ease_scores(query.watched_rows, release.ease_rows, release.ease_weights)
