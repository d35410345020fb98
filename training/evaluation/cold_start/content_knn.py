"""Content-only nearest neighbours, the baseline for unseen videos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from server.arrays import Float32Array, Int64Array
from training.evaluation.baselines.past import history_matrix
from training.retrieval.content import weighted_bags
from training.retrieval.data import RetrievalData


class ContentKnn:
    """Cosine between the mean token bag of the history and each video's, weighted by tf-idf."""

    def __init__(self, data: RetrievalData) -> None:
        self._bags = weighted_bags(data.content)

    def scores(self, watched: Sequence[Int64Array]) -> Float32Array:
        """Return the similarity of videos to each history, float32[v, n]; 0 without history."""
        # The norm of a viewer's mean doesn't change the order.
        tastes = history_matrix(watched, self._bags.shape[0]) @ self._bags
        return np.asarray((tastes @ self._bags.T).toarray(), np.float32)
