"""Content-only nearest neighbours: what an unseen video must be found better than by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.evaluation.baselines.past import history_matrix
from training.retrieval.content import weighted_bags
from training.retrieval.data import RetrievalData

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


class ContentKnn:
    """Cosine between the mean bag of the history and each video's, tokens weighted by tf-idf."""

    def __init__(self, data: RetrievalData) -> None:
        """Takes the tokens that the video tower reads, those of every video."""
        self._bags = weighted_bags(data.content)

    def scores(self, watched: Sequence[Int64Array]) -> Float32Array:
        """The similarity of every video to each history, float32[v, n]; 0 without history."""
        # The length of a viewer's mean changes no order.
        tastes = history_matrix(watched, self._bags.shape[0]) @ self._bags
        return np.asarray((tastes @ self._bags.T).toarray(), np.float32)
