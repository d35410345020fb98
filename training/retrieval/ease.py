"""EASE, a closed-form item-to-item model, cut down to a table that a pod can hold.

Kept are EASE_NEIGHBOURS weights of each video. On ml-1m's validation, the sum of two-tower's score
and this one came to, over the k largest weights and over all:

| k | 256 | 512 | 1,024 | all |
|---|---|---|---|---|
| NDCG@10 | .2061 | .2057 | .2050 | .2046 |
| Recall@100 | .747 | .747 | .750 | .750 |
| Recall@500 | .915 | .914 | .914 | .916 |
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from training.retrieval.data import RetrievalData

EASE_LAMBDA = 300.0
"""Pull of the weights to 0. In a sum with two-tower, on validation of ml-1m, Recall@500 is .915
with 100, .916 with this, .915 with 1,000 and 3,000."""
EASE_NEIGHBOURS = 256
"""How many weights are kept of each video, the largest of either sign."""
EASE_LIMIT = 20_000
"""The square of a larger catalogue takes too much memory, its cube too much time."""


def ease_table(
    data: RetrievalData, k: int = EASE_NEIGHBOURS, limit: int = EASE_LIMIT
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The k strongest weights of each video, by absolute value, fitted on the train part.

    Returns:
        Rows int32[n, k] and weights float32[n, k], the strongest first, 0 where a video has
        fewer; k is n in a smaller catalogue, and 0 in one of more than `limit` videos.
    """
    n = data.video_count
    if n > limit:
        return np.empty((n, 0), np.int32), np.empty((n, 0), np.float32)
    weights = ease_weights(data)
    k = min(k, n)
    # Stable, so that equal weights always come in the same order.
    rows = np.argsort(-np.abs(weights), axis=1, kind="stable")[:, :k]
    return rows.astype(np.int32), np.take_along_axis(weights, rows, axis=1)


def ease_weights(data: RetrievalData) -> npt.NDArray[np.float32]:
    """The whole matrix: what a watch of each video (row) says for each other, float32[n, n]."""
    n = data.video_count
    ones = np.ones(len(data.rows), np.float32)
    watched: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (ones, data.rows, data.offsets), shape=(data.viewer_count, n)
    )
    return closed_form(watched, EASE_LAMBDA)


def closed_form(watched: sparse.csr_array, regularisation: float) -> npt.NDArray[np.float32]:
    """EASE's weights, float32[n, n], 0 on the diagonal (Steck 2019, equation 8).

    The catalogue's square has to fit in memory, and its cube in patience.

    Args:
        watched: 1 where a viewer watched a video, float32[v, n], sparse.
        regularisation: pull of the weights to 0.
    """
    gram = (watched.T @ watched).toarray().astype(np.float64)
    gram[np.diag_indices(len(gram))] += regularisation
    inverse = np.linalg.inv(gram)
    weights: npt.NDArray[np.float32] = (-inverse / np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return weights
