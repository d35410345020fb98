"""The most watched videos, for everyone alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.evaluation.baselines.past import Float32Array, Int64Array, Past


def popularity_scores(counts: npt.ArrayLike, viewers: int) -> Float32Array:
    """The same score for every viewer: how often each video was watched, float32[v, n]."""
    scores = np.asarray(counts, np.float32)
    return np.broadcast_to(scores, (viewers, len(scores)))


class Popularity:
    """How often each video was watched."""

    def __init__(self, past: Past) -> None:
        """Counts."""
        self._counts = past.counts

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """The same scores for every viewer, float32[v, n]."""
        return popularity_scores(self._counts, len(histories))
