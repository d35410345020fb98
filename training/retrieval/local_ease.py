"""EASE for catalogues whose square doesn't fit in memory: a small ridge regression for each video.

EASE regresses who watched a video on who watched each of the others. Here the others are those
REGRESSORS that predict the video best by themselves, and of the counts of viewers that two videos
share, the smallest are dropped to bound memory.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from vireo.server.arrays import Float32Array, Int32Array
from vireo.training.retrieval.co_watch import parts, strongest
from vireo.training.retrieval.data import RetrievalData

REGRESSORS = 50
PAIRS = 32_000_000
"""Maximum counts kept, 8 bytes each, but at least 64 for each video."""
HISTORY = 200
"""Last watches of each viewer that count: the time to count pairs grows with the square."""
_AT_A_TIME = 2_000
"""Regressions solved at once, 10 kB each."""


def local_ease_table(data: RetrievalData, k: int) -> tuple[Int32Array, Float32Array]:
    """Return the k strongest weights of each video, by absolute value, fitted on the train part.

    Returns:
        Rows int32[n, k] and weights float32[n, k], the strongest first, padded with 0.
    """
    weights = _weights(_recent(data))
    rows, kept = np.empty((data.video_count, k), np.int32), np.empty((data.video_count, k), "f4")
    for part in parts(np.diff(weights.indptr), range(data.video_count)):
        own = slice(part.start, part.stop)
        rows[own], kept[own] = strongest(weights[own], np.abs(weights[own].data), k)
    return np.maximum(rows, 0), kept


def _recent(data: RetrievalData) -> sparse.csr_array:
    """Return 1 where a video is among the last HISTORY that a viewer watched, float32[v, n]."""
    lengths = np.diff(data.train.offsets)
    left = np.repeat(data.train.offsets[1:], lengths) - np.arange(data.watch_count)
    rows = data.train.rows[left <= HISTORY]
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, HISTORY))])
    watched: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (np.ones(len(rows), np.float32), rows, offsets), shape=(len(lengths), data.video_count)
    )
    return watched


def _weights(watched: sparse.csr_array) -> sparse.csr_array:
    """Return the weight of each watched video (row) for others, sparse float32[n, n]."""
    n = watched.shape[1]
    # Zero for padding, which is row -1.
    counts = np.append(np.bincount(watched.indices, minlength=n), 0).astype(np.float32)
    # As a rule the best regularisation of EASE is about the mean number of watches of a video.
    regularisation = np.float32(counts[counts > 0].mean()) if counts.any() else np.float32(1)
    near, together = _pairs(watched, counts, regularisation)
    fitted = _regressions(near, together, counts + regularisation)
    regressors = near[:-1, :REGRESSORS]
    real = regressors >= 0
    offsets = np.concatenate([[0], np.cumsum(real.sum(1))])
    by_target: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (fitted[real], regressors[real], offsets), shape=(n, n)
    )
    del near, together, fitted, regressors, real
    weights: sparse.csr_array = by_target.T.tocsr()
    return weights


def _pairs(
    watched: sparse.csr_array, counts: Float32Array, regularisation: np.float32
) -> tuple[Int32Array, Float32Array]:
    """Return the videos that predict each video best by themselves, best first, int32[n + 1, m].

    And how many viewers both have, float32[n + 1, m]. Rows are padded with -1 and 0, the last one
    entirely, so that it is the row of padding.
    """
    n = watched.shape[1]
    m = max(64, min(512, PAIRS // n))
    near, together = np.full((n + 1, m), -1, np.int32), np.zeros((n + 1, m), np.float32)
    viewers_of = watched.T.tocsr()
    for part in parts(viewers_of @ np.diff(watched.indptr).astype(np.int64), range(n)):
        own = slice(part.start, part.stop)
        shared = viewers_of[own] @ watched
        video = np.repeat(np.arange(part.start, part.stop), np.diff(shared.indptr))
        shared.data[shared.indices == video] = 0
        shared.eliminate_zeros()
        # The square is what the loss falls by with this regressor alone.
        alone = shared.data / np.sqrt(counts[shared.indices] + regularisation)
        near[own], together[own] = strongest(shared, alone, m)
    return near, together


def _regressions(near: Int32Array, together: Float32Array, diagonal: Float32Array) -> Float32Array:
    """Return the weights of each video's first REGRESSORS of `near`, float32[n, REGRESSORS].

    `diagonal` is how many viewers each video has plus the regularisation, float32[n + 1].
    """
    n, each = len(near) - 1, np.arange(REGRESSORS)
    weights = np.empty((n, REGRESSORS), np.float32)
    place = np.full(n + 1, -1)  # of each video among the regressors, -1 for none
    for start in range(0, n, _AT_A_TIME):
        own = slice(start, min(start + _AT_A_TIME, n))
        regressors = near[own, :REGRESSORS]
        gram = np.zeros((len(regressors), REGRESSORS, REGRESSORS), np.float32)
        for matrix, rows in zip(gram, regressors, strict=True):
            place[rows] = each
            place[-1] = -1
            column = place[near[rows]]
            known, entry = (column >= 0).nonzero()
            matrix[known, column[known, entry]] = together[rows[known], entry]
            place[rows] = -1
        # Of two videos, one may have dropped the count that the other has kept.
        gram = np.maximum(gram, gram.transpose(0, 2, 1))
        gram[:, each, each] = diagonal[regressors]
        weights[own] = np.linalg.solve(gram, together[own, :REGRESSORS, None])[..., 0]
    return weights
