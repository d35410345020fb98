"""Tables of each video's neighbours: what is watched soon after it, and the weights of EASE.

EASE is a closed-form item-to-item model, of which EASE_NEIGHBOURS weights are kept for each video,
so that the table fits into a pod's memory. Validation on ml-1m of the sum of the two-tower score
and this one, by the number k of weights kept:

| k | 256 | 512 | 1,024 | all |
|---|---|---|---|---|
| NDCG@10 | .2061 | .2057 | .2050 | .2046 |
| Recall@100 | .747 | .747 | .750 | .750 |
| Recall@500 | .915 | .914 | .914 | .916 |

It regresses who watched a video on who watched each of the others. In catalogues whose square
doesn't fit in memory the others are those REGRESSORS that predict the video best by themselves, and
of the counts of viewers that two videos share, the smallest are dropped to bound memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import get_lapack_funcs

from vireo.server.arrays import Float32Array, Int32Array, Int64Array
from vireo.training.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData

STEPS = 10
"""Number of next watches that count as following a video."""
STEP_DECAY = 0.9
"""Weight of each step relative to the one before."""
POPULARITY_DAMPING = 0.1
"""A follower's weight is divided by its watch count to this power; 0 favours popular videos."""
NEIGHBOURS = 64
"""Followers kept for each video."""
CELLS = 12_000_000
"""Maximum followers of all videos together: a catalogue of more than CELLS / NEIGHBOURS videos,
most of which are rarely watched, keeps fewer for each."""
PAIRS_AT_A_TIME = 8_000_000
"""Pairs counted at once; bounds memory, at some 100 bytes each."""

EASE_LAMBDA = 300.0
"""L2 regularisation. Summed with two-tower, on validation of ml-1m, Recall@500 is .915 with 100,
.916 with 300, .915 with 1,000 and 3,000."""
EASE_NEIGHBOURS = 256
"""Weights kept for each video, the largest by absolute value."""
_ROWS_AT_A_TIME = 512
"""Rows of a band; bounds memory besides the matrix to a few bands."""

REGRESSORS = 50
PAIRS = 32_000_000
"""Maximum counts kept, 8 bytes each, but at least 64 for each video."""
HISTORY = 200
"""Last watches of each viewer that count: the time to count pairs grows with the square."""
_AT_A_TIME = 2_000
"""Regressions solved at once, 10 kB each."""


def co_watch_neighbours(videos: int) -> int:
    """Return how many followers to keep for each video of a catalogue of `videos`."""
    return max(8, min(NEIGHBOURS, CELLS // max(videos, 1)))


def co_watch_table(data: RetrievalData, k: int) -> tuple[Int32Array, Float32Array]:
    """Return the k strongest followers of each video in the train part, strongest first.

    A weight is the follower's probability among the next STEPS watches, nearer steps counting more,
    divided by its watch count to the power POPULARITY_DAMPING.

    Returns:
        Rows int32[n, k], padded with -1, and weights float32[n, k], padded with 0.
    """
    rows = np.empty((data.video_count, k), np.int32)
    table = np.empty((data.video_count, k), np.float32)
    watches = np.maximum(data.watch_counts, 1).astype(np.float64)
    for part in parts(data.watch_counts * STEPS):
        follows = _follow_counts(data, part)
        video = part.start + np.repeat(np.arange(len(part)), np.diff(follows.indptr))
        follows.data /= watches[video]
        follows.data /= watches[follows.indices] ** POPULARITY_DAMPING
        own = slice(part.start, part.stop)
        rows[own], table[own] = strongest(follows, follows.data, k)
    return rows, table


def parts(pairs: Int64Array) -> Iterator[range]:
    """Yield the videos in parts of about PAIRS_AT_A_TIME pairs, given each video's, int64[n]."""
    total, start = np.cumsum(pairs), 0
    while start < len(total):
        before = total[start - 1] if start else 0
        fit = int(np.searchsorted(total, before + PAIRS_AT_A_TIME, side="right"))
        stop = max(fit, start + 1)
        yield range(start, stop)
        start = stop


def strongest(
    table: sparse.csr_array, strengths: npt.NDArray[np.floating], k: int
) -> tuple[Int32Array, Float32Array]:
    """Return the k entries of each row of a sparse table with the largest strengths, largest first.

    Args:
        table: m rows.
        strengths: strength of each entry, in the order of the table's.
        k: number of entries to keep.

    Returns:
        Columns int32[m, k], padded with -1, and entries float32[m, k], padded with 0.
    """
    columns = np.full((table.shape[0], k), -1, np.int32)
    entries = np.zeros((table.shape[0], k), np.float32)
    row = np.repeat(np.arange(len(columns)), np.diff(table.indptr))
    # By row, then strength, then column: equal strengths always come in the same order.
    order = np.lexsort((table.indices, -strengths, row))
    place = np.arange(len(order)) - table.indptr[row]
    kept = place < k
    columns[row[kept], place[kept]] = table.indices[order][kept]
    entries[row[kept], place[kept]] = table.data[order][kept]
    return columns, entries


def _follow_counts(data: RetrievalData, videos: range) -> sparse.csr_array:
    """Count how often each video (column) followed each of `videos` (row), weighted by step."""
    places = np.flatnonzero((data.train.rows >= videos.start) & (data.train.rows < videos.stop))
    ends = data.train.offsets[np.searchsorted(data.train.offsets, places, side="right")]
    before, after, weights = [], [], []
    for step in range(1, STEPS + 1):
        same = places[places + step < ends]
        before.append(data.train.rows[same] - videos.start)
        after.append(data.train.rows[same + step])
        weights.append(np.full(len(same), STEP_DECAY ** (step - 1)))
    pairs = (np.concatenate(before), np.concatenate(after))
    counts: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (np.concatenate(weights), pairs), shape=(len(videos), data.video_count)
    )
    return counts


def local_ease_table(data: RetrievalData, k: int) -> tuple[Int32Array, Float32Array]:
    """Return the k strongest weights of each video, by absolute value, fitted on the train part.

    Returns:
        Rows int32[n, k] and weights float32[n, k], the strongest first, padded with 0.
    """
    weights = _weights(_watched(data, HISTORY))
    rows, kept = np.empty((data.video_count, k), np.int32), np.empty((data.video_count, k), "f4")
    for part in parts(np.diff(weights.indptr)):
        own = slice(part.start, part.stop)
        rows[own], kept[own] = strongest(weights[own], np.abs(weights[own].data), k)
    return np.maximum(rows, 0), kept


def _watched(data: RetrievalData, last: int = np.iinfo(np.int64).max) -> sparse.csr_array:
    """Return 1 where a video is among the `last` that a viewer watched, float32[v, n]."""
    lengths = np.diff(data.train.offsets)
    left = np.repeat(data.train.offsets[1:], lengths) - np.arange(data.watch_count)
    rows = data.train.rows[left <= last]
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, last))])
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
    for part in parts(viewers_of @ np.diff(watched.indptr).astype(np.int64)):
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
    weights = closed_form(_watched(data), EASE_LAMBDA)
    for start in range(0, n, _ROWS_AT_A_TIME):
        band = slice(start, start + _ROWS_AT_A_TIME)
        # Stable, so that ties are always in the same order.
        strongest = np.argsort(-np.abs(weights[band]), axis=1, kind="stable")[:, :k]
        rows[band], kept[band] = strongest, np.take_along_axis(weights[band], strongest, axis=1)
    return rows, kept


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
