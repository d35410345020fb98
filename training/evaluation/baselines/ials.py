"""iALS: matrix factorisation for implicit feedback, by the library `implicit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

from vireo.server.arrays import Float32Array, Int64Array
from vireo.training.evaluation.baselines.past import Grid, Past, history_matrix

GRID: Grid = {
    "half_life": (None, 10.0, 5.0, 4.0, 3.0, 2.0, 1.0),
    "regularisation": (1.0, 3.0, 10.0, 30.0, 100.0),
    "alpha": (0.3, 1.0, 3.0, 10.0, 30.0),
    "factors": (32, 64, 128, 256, 512),
}


@dataclass(frozen=True)
class IalsConfig:
    """How videos are factorised, and how a viewer's factors are solved for.

    BM25 weights are worse and more iterations are no better: neither is in the grid.
    """

    half_life: float | None = 5.0
    """Number of later watches that halve the confidence in a watch when the viewer's factors are
    solved for; None: all weigh the same, as they do when the videos' factors are learned."""
    regularisation: float = 10.0
    """L2 regularisation; the library doesn't scale it by the number of watches."""
    alpha: float = 1.0
    """Confidence in a watch; it is 1 for videos that weren't watched."""
    factors: int = 128
    iterations: int = 15


def factorised(past: Past, config: IalsConfig) -> AlternatingLeastSquares:
    """Return the library's fitted model, which doesn't depend on `config.half_life`."""
    # The library uses threads of its own, and warns about BLAS threads below them.
    with threadpool_limits(1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=config.factors,
            regularization=config.regularisation,
            alpha=config.alpha,
            iterations=config.iterations,
            random_state=0,
        )
        model.fit(_for_library(past.matrix), show_progress=False)
    return model


@dataclass(frozen=True)
class Ials:
    """Scores videos by their factors; a viewer's factors are solved for on request."""

    model: AlternatingLeastSquares
    half_life: float | None = None
    """See IalsConfig."""

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """See Baseline."""
        factors = self.model.item_factors
        assert factors is not None, "fitted"
        matrix = _for_library(history_matrix(histories, len(factors), self.half_life))
        with threadpool_limits(1, user_api="blas"):
            viewers = self.model.recalculate_user(np.arange(len(histories)), matrix)
        return np.asarray(viewers @ factors.T, np.float32)


def _for_library(matrix: sparse.csr_array) -> sparse.csr_matrix:
    return sparse.csr_matrix(matrix)  # type: ignore[no-untyped-call]
