"""Videos that EASE, an item-to-item model, predicts from all watches."""

from __future__ import annotations

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.features.history_scores import summed
from vireo.server.recommend.retrieval.query import Retrieval

RECENCY_HALF_LIFE = 3
"""Number of watches after which what a watch counts beside the 1 of each is halved; rankers learnt
the score with it, so another value needs a field in the manifest."""


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the videos with a positive EASE score, best first, ties by key.

    There are none without a watch.
    """
    rows, scores = query.once(_reached)
    expected = (scores > 0).nonzero()[0]
    return query.best(rows.take(expected), scores.take(expected), limit)


def score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return the EASE score of each video, negative if the watches speak against it."""
    return query.scores_of(rows, *query.once(_reached))


def _reached(query: Retrieval) -> tuple[Int64Array, Float32Array]:
    """Return the rows that the watches speak for or against, ascending, and their scores.

    A watch counts 1 (Steck 2019, equation 1), and one of the history `ease_recency` more, halved
    every RECENCY_HALF_LIFE watches after it.
    """
    release, watched = query.release, query.watched_rows
    rows = release.ease_rows.take(watched, axis=0)
    weights = release.ease_weights.take(watched, axis=0)
    if recency := release.manifest.feature_schema.ease_recency:
        counted, history = np.ones(len(watched), np.float32), query.history_rows
        back = np.arange(len(history))[::-1]
        # The watched rows ascend and include the history's; of repeats the last counts.
        counted[np.searchsorted(watched, history)] += recency * 0.5 ** (back / RECENCY_HALF_LIFE)
        weights = weights * counted[:, None]
    return summed(rows, weights, len(release.keys))
