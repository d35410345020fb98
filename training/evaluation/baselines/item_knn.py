"""Item-to-item nearest neighbours by the cosine of who watched them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from implicit.nearest_neighbours import ItemItemRecommender
from scipy import sparse

from training.evaluation.baselines.past import Float32Array, Int64Array, Past, history_matrix

NEIGHBOURS = 20
"""Kept of each video; 50, 200 and 1,000 are no better on the validation of ML-1M."""


class ItemKnn:
    """Sums the cosines of a video with those that a viewer watched, where it is near them."""

    def __init__(self, past: Past, neighbours: int = NEIGHBOURS) -> None:
        """Finds each video's neighbours."""
        lengths = np.sqrt(np.maximum(past.counts, 1))
        scale = sparse.diags_array(1 / lengths)  # type: ignore[no-untyped-call]
        units = sparse.csr_matrix(past.matrix @ scale)  # type: ignore[no-untyped-call]
        units.indices, units.indptr = units.indices.astype(np.int32), units.indptr.astype(np.int32)
        model = ItemItemRecommender(K=neighbours + 1, num_threads=1)  # Each is its own nearest.
        model.fit(units, show_progress=False)
        self._cosines = sparse.csr_array(  # type: ignore[no-untyped-call]
            model.similarity, dtype=np.float32
        )

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """Scores of every video for viewers who watched these rows, float32[v, n]."""
        matrix = history_matrix(histories, self._cosines.shape[0])
        return np.asarray((matrix @ self._cosines).toarray(), np.float32)
