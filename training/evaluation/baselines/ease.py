"""EASE (Steck 2019), a closed-form item-to-item model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.training.evaluation.baselines.past import Grid, history_matrix
from vireo.training.retrieval.ease import EASE_LAMBDA

GRID: Grid = {"regularisation": (30.0, 100.0, 200.0, 300.0, 500.0, 1000.0, 3000.0)}
RECENCY_GRID: Grid = {
    "regularisation": (100.0, 300.0, 500.0, 1000.0, 2000.0, 5000.0),
    "half_life": (10.0, 7.0, 5.0, 4.0, 3.0, 2.0, 1.0),
}


@dataclass(frozen=True)
class EaseConfig:
    """How the weights are fitted and summed."""

    regularisation: float = EASE_LAMBDA
    """L2 regularisation of the weights, the paper's lambda."""
    half_life: float | None = None
    """Number of later watches that halve a watch's weight; None: all weigh the same."""


@dataclass(frozen=True)
class Ease:
    """Sums the weights of what a viewer watched."""

    weights: Float32Array
    """Weight of each watched video (row) for each other, float32[n, n], 0 on the diagonal."""
    half_life: float | None = None
    """See EaseConfig."""

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """See Baseline."""
        matrix = history_matrix(histories, len(self.weights), self.half_life)
        return np.asarray(matrix @ self.weights, np.float32)
