"""What slates avoid: videos like each other, like hidden ones, and shown before without a play."""

from __future__ import annotations

import numpy as np

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.features.fatigue import times_shown
from vireo.server.features.looked_up import looked_up
from vireo.server.features.model_inputs import VideoTable
from vireo.server.recommend.candidates import Candidates, best
from vireo.server.recommend.ranking.release import Ranking

SCORE = "score"
"""Column of the score that orders the page."""
RERANK_WINDOW = 100
"""Number of best candidates that are reordered. It doesn't depend on the page size, so that a
shorter page is a prefix of a longer one."""
DAMPED_DAYS = 30.0
"""Days after a hide until videos like the hidden one have all of their score again."""
DAMPING = 0.2
"""Share of its score that such a video keeps right after the hide; it recovers linearly."""
NEAR = 0.8
"""Minimum cosine, of the video vectors or of the content vectors, of a video that is like another.
On ml-100k 4% of the catalogue is like a video."""
MAX_HIDDEN = 50
"""Number of last hidden videos that count."""

_TINY = np.finfo(np.float32).tiny
_DAY = 86_400.0


def diverse_best(query: Ranking, candidates: Candidates, limit: int) -> Int64Array:
    """Return the places of the best `limit` candidates, in the order of the slate.

    They are the best by score and by maximal marginal relevance; unknown candidates come last,
    ties by key.
    """
    scores = candidates.scores[SCORE]
    # Unknown candidates have a score of 0, as known ones may.
    ranked = np.where(candidates.rows >= 0, scores, np.float32(-1))
    # Low scores are often equal, which makes sorting all of them slow.
    order = best(np.arange(len(candidates)), ranked, candidates.keys, max(limit, RERANK_WINDOW))
    strength = query.release.manifest.score_weights.diversity
    if strength > 0:
        window = order[:RERANK_WINDOW]
        window = window[candidates.rows[window] >= 0]
        vectors = looked_up(query.table.vectors, candidates.rows[window])
        chosen = diverse_order(scores[window], vectors, strength, min(limit, len(window)))
        order = np.concatenate([window[chosen], order[len(window) :]])
    return order[:limit]


def diverse_order(
    scores: Float32Array, vectors: Float32Array, strength: float, count: int
) -> Int64Array:
    """Return the places of the first `count`, chosen greedily, ties by place.

    The next is the one with the largest log(score) - strength x its largest cosine to one that is
    already chosen.

    Args:
        scores: at least 0, float32[n].
        vectors: video vectors, float32[n, d].
        strength: at least 0, which keeps the order of the scores.
        count: at most n.
    """
    unit = _unit(vectors)
    # log(_TINY) is far below that of any probability, and finite.
    value = np.log(np.maximum(scores, _TINY))
    # Row i has the value of each video if i is the nearest to it of those chosen.
    beside = value - strength * (unit @ unit.T)
    least = np.full(len(scores), np.inf, np.float32)
    chosen = np.empty(count, np.int64)
    for place in range(count):
        chosen[place] = best = value.argmax()
        value = np.minimum(least, beside[best], out=least)
        value[best] = -np.inf
    return chosen


def damping(query: Ranking, rows: Int64Array) -> Float32Array | None:
    """Return the factor of each video's score, float32[n]; None if all are 1.

    It is below 1 for videos near to a hidden one, or by its creator, for DAMPED_DAYS.

    Args:
        query: the query, of a viewer with hidden videos.
        rows: rows of videos in the query's table, int64[n].
    """
    viewer = query.viewer
    if not len(viewer.hidden_keys):
        return None
    age = np.maximum(viewer.asked_at - viewer.hidden_times, 0) / (DAMPED_DAYS * _DAY)
    recent = np.argsort(age, kind="stable")[:MAX_HIDDEN]
    hidden = query.release.find(viewer.hidden_keys[recent])
    counts = (age[recent] < 1) & (hidden >= 0)
    if not counts.any():
        return None
    kept = DAMPING + (1 - DAMPING) * age[recent][counts]
    factors = np.where(_like(query.table, rows, hidden[counts]), kept, 1.0)
    least: Float32Array = factors.min(1).astype(np.float32)
    return least


def fatigue(query: Ranking, keys: Int64Array) -> Float32Array | None:
    """Return the factor of each video's score, float32[n]; None if all are 1.

    It is below 1 for videos that the viewer was shown before, by the release's strength.

    Args:
        query: the query.
        keys: different videos, int64[n], at least one.
    """
    viewer, strength = query.viewer, query.release.manifest.score_weights.fatigue
    if not (strength and len(viewer.shown_keys)):
        return None
    times = times_shown(keys, viewer.shown_keys, viewer.shown_times, viewer.asked_at)
    factors: Float32Array = ((1 + times) ** -strength).astype(np.float32)
    return factors


def _like(table: VideoTable, rows: Int64Array, hidden: Int64Array) -> BoolArray:
    """Return whether each video is like each hidden one, bool[n, h]."""
    vectors, theirs = (_unit(looked_up(table.vectors, some)) for some in (rows, hidden))
    contents, hers = (looked_up(table.content, some) for some in (rows, hidden))
    creators = table.creators.take(hidden, axis=0)
    like: BoolArray = (vectors @ theirs.T >= NEAR) | (contents @ hers.T >= NEAR)
    like |= (table.creators.take(rows, axis=0)[:, None] == creators) & (creators != -1)
    return like


def _unit(vectors: Float32Array) -> Float32Array:
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    unit: Float32Array = vectors / np.maximum(lengths, _TINY)[:, None]
    return unit
