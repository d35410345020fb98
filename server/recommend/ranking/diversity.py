"""Diversifies slates: maximal marginal relevance over the best candidates."""

from __future__ import annotations

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.features.looked_up import looked_up
from vireo.server.recommend.candidates import Candidates, best
from vireo.server.recommend.ranking.query import Ranking
from vireo.server.recommend.ranking.stages import SCORE

RERANK_WINDOW = 100
"""Number of best candidates that are reordered. It doesn't depend on the page size, so that a
shorter page is a prefix of a longer one."""

_TINY = np.finfo(np.float32).tiny


def diverse_best(query: Ranking, candidates: Candidates, limit: int) -> Int64Array:
    """Return the places of the best `limit` candidates, in the order of the slate.

    They are the best by score and diversity; unknown candidates come last, ties by key.
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
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    unit = vectors / np.maximum(lengths, _TINY)[:, None]
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
