"""iALS: matrix factorisation for implicit feedback, by the library `implicit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

from training.evaluation.baselines.past import Float32Array, Int64Array, Past, history_matrix


@dataclass(frozen=True)
class IalsConfig:
    """Settings, tuned on the validation of ML-1M and ML-100K together."""

    factors: int = 128
    regularisation: float = 10.0
    """Best of .01, 1, 3, 10, 20 and 50; the library doesn't scale it by the number of watches."""
    alpha: float = 1.0
    """Confidence of a watch; what wasn't watched has 1. Best of .3, 1, 2, 3, 10 and 40."""
    iterations: int = 15
    """30 are no better."""
    half_life: float = 10.0
    """Of a watch's confidence, in watches back, when a viewer is solved for; the factors of the
    videos are learned with all watches alike. That nearly doubles NDCG@10 (.049 to .090 on
    ML-1M): 40 and 150 gain less. Weights by BM25 harm."""


def _for_library(matrix: sparse.csr_array) -> sparse.csr_matrix:
    """The same as what the library takes."""
    return sparse.csr_matrix(matrix)  # type: ignore[no-untyped-call]


class Ials:
    """Factors of videos; a viewer's are solved for from the history when asked."""

    def __init__(self, past: Past, config: IalsConfig | None = None) -> None:
        """Factorises."""
        config = config or IalsConfig()
        self._videos, self._half_life = past.videos, config.half_life
        # The library solves in threads of its own, and warns of BLAS threads below them.
        with threadpool_limits(1, user_api="blas"):
            self._model = AlternatingLeastSquares(
                factors=config.factors,
                regularization=config.regularisation,
                alpha=config.alpha,
                iterations=config.iterations,
                random_state=0,
            )
            self._model.fit(_for_library(past.matrix), show_progress=False)

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """Scores of every video for viewers who watched these rows, float32[v, n]."""
        matrix = _for_library(history_matrix(histories, self._videos, self._half_life))
        with threadpool_limits(1, user_api="blas"):
            viewers = self._model.recalculate_user(np.arange(len(histories)), matrix)
        factors = self._model.item_factors
        assert factors is not None, "fitted"
        return np.asarray(viewers @ factors.T, np.float32)
