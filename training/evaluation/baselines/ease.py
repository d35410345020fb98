"""EASE: an embarrassingly shallow autoencoder, that is a closed-form item-to-item model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.evaluation.baselines.past import Float32Array, Int64Array, Past, history_matrix

REGULARISATION = 300.0
"""Lambda; the best for ML-100K and ML-1M alike."""
HALF_LIFE = 5.0
"""Of a watch's weight, in watches back, for EASE with recency."""


def ease_weights(past: Past, regularisation: float = REGULARISATION) -> Float32Array:
    """How much each watched video says for each other, float32[n, n], 0 on the diagonal.

    The catalogue's square has to fit in memory, and its cube in patience.
    """
    gram = (past.matrix.T @ past.matrix).toarray().astype(np.float64)
    gram[np.diag_indices(past.videos)] += regularisation
    inverse = np.linalg.inv(gram)
    weights: Float32Array = (-inverse / np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return weights


class Ease:
    """Sums the weights of what a viewer watched, lately watched videos counting more."""

    def __init__(self, weights: Float32Array, half_life: float | None = None) -> None:
        """Takes `ease_weights`; every watch counts alike where `half_life` is None."""
        self._weights, self._half_life = weights, half_life

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """Scores of every video for viewers who watched these rows, float32[v, n]."""
        matrix = history_matrix(histories, len(self._weights), self._half_life)
        return np.asarray(matrix @ self._weights, np.float32)
