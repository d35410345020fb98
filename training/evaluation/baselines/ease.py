"""EASE: an embarrassingly shallow autoencoder, that is a closed-form item-to-item model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation.baselines.past import Float32Array, Grid, Int64Array, Past, history_matrix
from training.retrieval.ease import EASE_LAMBDA, closed_form


@dataclass(frozen=True)
class EaseConfig:
    """How the weights are fitted, and which watches they are summed over."""

    regularisation: float = EASE_LAMBDA
    """Pull of the weights to 0, the paper's lambda."""
    half_life: float | None = None
    """Watches back at which a viewer's watch counts half; None: all alike."""


GRID: Grid = {"regularisation": (30.0, 100.0, 200.0, 300.0, 500.0, 1000.0, 3000.0)}
RECENCY_GRID: Grid = {
    "regularisation": (100.0, 300.0, 500.0, 1000.0, 2000.0, 5000.0),
    "half_life": (10.0, 7.0, 5.0, 4.0, 3.0, 2.0, 1.0),
}


def ease_weights(past: Past, regularisation: float = EASE_LAMBDA) -> Float32Array:
    """Return how much each watched video says for each other, float32[n, n], 0 on the diagonal."""
    return closed_form(past.matrix, regularisation)


class Ease:
    """Sums the weights of what a viewer watched, recent watches counting more if asked to."""

    def __init__(self, weights: Float32Array, half_life: float | None = None) -> None:
        """Read `ease_weights` with the half-life of an `EaseConfig`."""
        self._weights, self._half_life = weights, half_life

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """Return scores of every video for viewers who watched these rows, float32[v, n]."""
        matrix = history_matrix(histories, len(self._weights), self._half_life)
        return np.asarray(matrix @ self._weights, np.float32)
