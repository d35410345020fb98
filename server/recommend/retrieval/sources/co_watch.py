"""Videos that viewers watched soon after those in this viewer's recent history."""

from __future__ import annotations

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.features.history_scores import co_watched
from vireo.server.recommend.retrieval.query import Retrieval


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the videos that the history leads to, strongest first, ties by key."""
    return query.best(*query.once(_reached), limit)


def score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return how strongly the history leads to each video; 0 if it doesn't."""
    return query.scores_of(rows, *query.once(_reached))


def _reached(query: Retrieval) -> tuple[Int64Array, Float32Array]:
    """Return the rows that the history leads to, ascending, and their scores."""
    release = query.release
    return co_watched(query.history_rows, release.co_watch_rows, release.co_watch_weights)
