"""Keeps a slate from being ten times the same: maximal marginal relevance over the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.features.looked_up import looked_up
from server.pipeline.candidates import Candidates
from server.ranking.query import Ranking
from server.ranking.stages import SCORE

RERANK_WINDOW = 100
"""How many of the best by score are put in another order. The same whatever the page, so that a
shorter page is a prefix of a longer one."""

Float32Array = npt.NDArray[np.float32]
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class DiverseBest:
    """The page's best by score and diversity; unknown candidates last, ties by key."""

    name: str = "diverse_best"

    def select(self, query: Ranking, candidates: Candidates) -> Candidates:
        """The best `page_size` candidates, in the order in which they are to be shown."""
        scores, page = candidates.scores[SCORE], query.query.page_size
        order = np.argsort(-scores)
        if (np.diff(scores[order]) == 0).any():  # Seldom; by all takes longer.
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
) -> npt.NDArray[np.int64]:
    """Places of the first `count`, chosen one after the other, ties by place.

    The next is the one with the most log(score) - strength x its largest cosine to one that is
    chosen already.

    Args:
        scores: float32[n], from 0.
        vectors: video vectors, float32[n, d].
        strength: from 0, which gives the order of the scores.
        count: at most n.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    unit = vectors / np.maximum(lengths, _TINY)[:, None]
    # The logarithm of the least float is far below that of any probability, and finite.
    worth = np.log(np.maximum(scores, _TINY))
    nearest = np.full(len(scores), -np.inf, np.float32)
    value = worth
    chosen = []
    for _ in range(count):
        best = value.argmax()
        chosen.append(best)
        worth[best] = -np.inf
        # Of the chosen alone: a page is short, and most pairs are never asked for.
        np.maximum(nearest, unit @ unit[best], out=nearest)
        value = worth - strength * nearest
    return np.array(chosen, np.int64)
