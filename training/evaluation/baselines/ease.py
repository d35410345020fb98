"""EASE: an embarrassingly shallow autoencoder, that is a closed-form item-to-item model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.evaluation.baselines.past import Float32Array, Int64Array, Past, history_matrix
from training.retrieval.ease import EASE_LAMBDA, closed_form

HALF_LIFE = 5.0
"""Of a watch's weight, in watches back, for EASE with recency."""


def ease_weights(past: Past, regularisation: float = EASE_LAMBDA) -> Float32Array:
    """How much each watched video says for each other, float32[n, n], 0 on the diagonal."""
    return closed_form(past.matrix, regularisation)


class Ease:
    """Sums the weights of what a viewer watched, lately watched videos counting more."""

    def __init__(self, weights: Float32Array, half_life: float | None = None) -> None:
        """Takes `ease_weights`; every watch counts alike where `half_life` is None."""
        self._weights, self._half_life = weights, half_life

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """Scores of every video for viewers who watched these rows, float32[v, n]."""
        matrix = history_matrix(histories, len(self._weights), self._half_life)
        return np.asarray(matrix @ self._weights, np.float32)
