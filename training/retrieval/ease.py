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
from scipy.linalg import get_lapack_funcs

from training.retrieval.config import RetrievalConfig
from training.retrieval.data import RetrievalData

EASE_LAMBDA = 300.0
"""Pull of the weights to 0. In a sum with two-tower, on validation of ml-1m, Recall@500 is .915
with 100, .916 with this, .915 with 1,000 and 3,000."""
EASE_NEIGHBOURS = 256
"""How many weights are kept of each video, the largest of either sign."""
_ROWS_AT_A_TIME = 512
"""Bounds what is held besides the matrix: a few such bands of it."""


def ease_table(
    data: RetrievalData, k: int = EASE_NEIGHBOURS, limit: int = RetrievalConfig.ease_limit
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return the k strongest weights of each video, by absolute value, fitted on the train part.

    Args:
        data: what is fitted.
        k: how many weights to keep.
        limit: see `RetrievalConfig.ease_limit`.

    Returns:
        Rows int32[n, k] and weights float32[n, k], the strongest first, 0 where a video has
        fewer; k is n in a smaller catalogue, and 0 in one of more than `limit` videos.
    """
    n = data.video_count
    k = min(k, n) if n <= limit else 0
    rows, kept = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    if not k:
        return rows, kept
    weights = ease_weights(data)
    for start in range(0, n, _ROWS_AT_A_TIME):
        band = slice(start, start + _ROWS_AT_A_TIME)
        # Stable, so that equal weights always come in the same order.
        strongest = np.argsort(-np.abs(weights[band]), axis=1, kind="stable")[:, :k]
        rows[band], kept[band] = strongest, np.take_along_axis(weights[band], strongest, axis=1)
    return rows, kept


def ease_weights(data: RetrievalData) -> npt.NDArray[np.float32]:
    """Return the whole matrix: what a watch of each video says for each other, float32[n, n]."""
    n = data.video_count
    ones = np.ones(len(data.rows), np.float32)
    watched: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (ones, data.rows, data.offsets), shape=(data.viewer_count, n)
    )
    return closed_form(watched, EASE_LAMBDA)


def closed_form(watched: sparse.csr_array, regularisation: float) -> npt.NDArray[np.float32]:
    """Return EASE's weights, float32[n, n], 0 on the diagonal (Steck 2019, equation 8).

    One matrix is counted, inverted and divided in place: 4 bytes for each pair of videos. Its
    inverse is off by some 1e-7 of its condition number, which the regularisation bounds.

    Args:
        watched: 1 where a viewer watched a video, float32[v, n], sparse.
        regularisation: pull of the weights to 0, above 0.
    """
    n = watched.shape[1]
    viewers_of = watched.T.tocsr()
    gram = np.empty((n, n), np.float32)
    for start in range(0, n, _ROWS_AT_A_TIME):
        band = slice(start, start + _ROWS_AT_A_TIME)
        gram[band] = (viewers_of[band] @ watched).toarray()
    gram[np.diag_indices(n)] += regularisation
    # LAPACK overwrites only what lies by columns, as the transpose does; it is the same matrix.
    potrf, potri = get_lapack_funcs(("potrf", "potri"), (gram,))
    factor, _ = potrf(gram.T, lower=True, clean=False, overwrite_a=True)
    inverse, _ = potri(factor, lower=True, overwrite_c=True)
    weights: npt.NDArray[np.float32] = inverse.T
    for start in range(0, n, _ROWS_AT_A_TIME):  # One triangle is filled in: this is the other.
        stop = min(start + _ROWS_AT_A_TIME, n)
        weights[start:stop, :start] = weights[:start, start:stop].T
        corner = np.triu(weights[start:stop, start:stop])
        weights[start:stop, start:stop] = corner + np.triu(corner, 1).T
    weights /= -weights.diagonal()
    np.fill_diagonal(weights, 0)
    return weights
