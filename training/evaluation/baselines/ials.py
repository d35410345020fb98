"""iALS: matrix factorisation for implicit feedback, by the library `implicit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

from training.evaluation.baselines.past import Float32Array, Grid, Int64Array, Past, history_matrix


@dataclass(frozen=True)
class IalsConfig:
    """How videos are factorised, and how a viewer's factors are solved for.

    Weights by BM25 harm, and more iterations gain nothing: neither is tried again.
    """

    half_life: float | None = 5.0
    """Watches back at which the confidence in a viewer's watch halves when the viewer is solved
    for; None: all alike. The factors of the videos are learned with all watches alike."""
    regularisation: float = 10.0
    """Pull of the factors to 0; the library doesn't scale it by the number of watches."""
    alpha: float = 1.0
    """Confidence of a watch; what wasn't watched has 1."""
    factors: int = 128
    iterations: int = 15


GRID: Grid = {
    "half_life": (None, 10.0, 5.0, 4.0, 3.0, 2.0, 1.0),
    "regularisation": (1.0, 3.0, 10.0, 30.0, 100.0),
    "alpha": (0.3, 1.0, 3.0, 10.0, 30.0),
    "factors": (32, 64, 128, 256, 512),
}


def _for_library(matrix: sparse.csr_array) -> sparse.csr_matrix:
    """Return the same matrix as the type that the library expects."""
    return sparse.csr_matrix(matrix)  # type: ignore[no-untyped-call]


def factorised(past: Past, config: IalsConfig) -> AlternatingLeastSquares:
    """Return the library's model, fitted; `config.half_life` makes no difference to it."""
    # The library solves in threads of its own, and warns of BLAS threads below them.
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


class Ials:
    """Factors of videos; a viewer's are solved for from the history when asked."""

    def __init__(self, model: AlternatingLeastSquares, half_life: float | None = None) -> None:
        """Read what `factorised` gave with the half-life of an `IalsConfig`."""
        self._model, self._half_life = model, half_life

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """Return scores of every video for viewers who watched these rows, float32[v, n]."""
        factors = self._model.item_factors
        assert factors is not None, "fitted"
        matrix = _for_library(history_matrix(histories, len(factors), self._half_life))
        with threadpool_limits(1, user_api="blas"):
            viewers = self._model.recalculate_user(np.arange(len(histories)), matrix)
        return np.asarray(viewers @ factors.T, np.float32)
