"""Diversifies slates: maximal marginal relevance over the best candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server.arrays import Float32Array, Int64Array
from server.features.looked_up import looked_up
from server.pipeline.candidates import Candidates
from server.ranking.query import Ranking
from server.ranking.stages import SCORE

RERANK_WINDOW = 100
"""Number of best candidates that are reordered. It doesn't depend on the page size, so that a
shorter page is a prefix of a longer one."""

_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class DiverseBest:
    """Selects the page by score and diversity; unknown candidates last, ties by key."""

    name: str = "diverse_best"

    def select(self, query: Ranking, candidates: Candidates) -> Candidates:
        """Return the best `page_size` candidates, in the order of the slate."""
        scores, page = candidates.scores[SCORE], query.query.page_size
        order = np.argsort(-scores)
        if (np.diff(scores[order]) == 0).any():  # rare, and sorting by all takes longer
            order = np.lexsort((candidates.keys, candidates.rows < 0, -scores))
        strength = query.release.manifest.score_weights.diversity
        if strength > 0:
            best = order[:RERANK_WINDOW]
            best = best[candidates.rows[best] >= 0]
            vectors = looked_up(query.release.table.vectors, candidates.rows[best])
            chosen = diverse_order(scores[best], vectors, strength, min(page, len(best)))
            order = np.concatenate([best[chosen], order[len(best) :]])
        return candidates.take(order[:page])


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
    worth = np.log(np.maximum(scores, _TINY))
    nearest = np.full(len(scores), -np.inf, np.float32)
    value = worth
    chosen = []
    for _ in range(count):
        best = value.argmax()
        chosen.append(best)
        worth[best] = -np.inf
        # One row at a time: a page is short, and most pairs are never needed.
        np.maximum(nearest, unit @ unit[best], out=nearest)
        value = worth - strength * nearest
    return np.array(chosen, np.int64)
