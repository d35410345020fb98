"""EASE, a closed-form item-to-item model, truncated to a table that fits into a pod's memory.

EASE_NEIGHBOURS weights are kept for each video. Validation on ml-1m of the sum of the two-tower
score and this one, by the number k of weights kept:

| k | 256 | 512 | 1,024 | all |
|---|---|---|---|---|
| NDCG@10 | .2061 | .2057 | .2050 | .2046 |
| Recall@100 | .747 | .747 | .750 | .750 |
| Recall@500 | .915 | .914 | .914 | .916 |
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.linalg import get_lapack_funcs

from vireo.server.arrays import Float32Array, Int32Array
from vireo.training.retrieval.co_watch import co_watch_neighbours
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.local_ease import local_ease_table

EASE_LAMBDA = 300.0
"""L2 regularisation. Summed with two-tower, on validation of ml-1m, Recall@500 is .915 with 100,
.916 with 300, .915 with 1,000 and 3,000."""
EASE_NEIGHBOURS = 256
"""Weights kept for each video, the largest by absolute value."""
_ROWS_AT_A_TIME = 512
"""Rows of a band; bounds memory besides the matrix to a few bands."""


def ease_table(
    data: RetrievalData, k: int = EASE_NEIGHBOURS, limit: int = RetrievalConfig.ease_limit
) -> tuple[Int32Array, Float32Array]:
    """Return the k strongest weights of each video, by absolute value, fitted on the train part.

    In a catalogue of more than `limit` videos they are those of `local_ease_table`.

    Returns:
        Rows int32[n, k] and weights float32[n, k], the strongest first, padded with 0; k is at most
        n, and `co_watch_neighbours` beyond the limit.
    """
    n = data.video_count
    if n > limit:
        return local_ease_table(data, co_watch_neighbours(n))
    k = min(k, n)
    rows, kept = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    weights = ease_weights(data)
    for start in range(0, n, _ROWS_AT_A_TIME):
        band = slice(start, start + _ROWS_AT_A_TIME)
        # Stable, so that ties are always in the same order.
        strongest = np.argsort(-np.abs(weights[band]), axis=1, kind="stable")[:, :k]
        rows[band], kept[band] = strongest, np.take_along_axis(weights[band], strongest, axis=1)
    return rows, kept


def ease_weights(data: RetrievalData) -> Float32Array:
    """Return the item-to-item weights of all pairs of videos, float32[n, n]."""
    n = data.video_count
    ones = np.ones(len(data.train.rows), np.float32)
    watched: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (ones, data.train.rows, data.train.offsets), shape=(data.viewer_count, n)
    )
    return closed_form(watched, EASE_LAMBDA)


def closed_form(watched: sparse.csr_array, regularisation: float) -> Float32Array:
    """Return EASE's weights, float32[n, n], 0 on the diagonal (Steck 2019, equation 8).

    Works in place on one matrix, 4 bytes for each pair of videos. The relative error of the
    inverse is some 1e-7 times the condition number, which the regularisation bounds.

    Args:
        watched: 1 where a viewer watched a video, float32[v, n], sparse.
        regularisation: L2 regularisation, above 0.
    """
    n = watched.shape[1]
    viewers_of = watched.T.tocsr()
    gram = np.empty((n, n), np.float32)
    for start in range(0, n, _ROWS_AT_A_TIME):
        band = slice(start, start + _ROWS_AT_A_TIME)
        gram[band] = (viewers_of[band] @ watched).toarray()
    gram[np.diag_indices(n)] += regularisation
    # LAPACK overwrites column-major arrays only: pass the transpose, as the matrix is symmetric.
    potrf, potri = get_lapack_funcs(("potrf", "potri"), (gram,))
    factor, _ = potrf(gram.T, lower=True, clean=False, overwrite_a=True)
    inverse, _ = potri(factor, lower=True, overwrite_c=True)
    weights: Float32Array = inverse.T
    for start in range(0, n, _ROWS_AT_A_TIME):  # LAPACK fills one triangle: mirror it.
        stop = min(start + _ROWS_AT_A_TIME, n)
        weights[start:stop, :start] = weights[:start, start:stop].T
        corner = np.triu(weights[start:stop, start:stop])
        weights[start:stop, start:stop] = corner + np.triu(corner, 1).T
    weights /= -weights.diagonal()
    np.fill_diagonal(weights, 0)
    return weights
