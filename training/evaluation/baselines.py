"""What a trained chain must beat: popularity and EASE, by full ranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
EASE_REGULARISATION = 300.0
"""Lambda; the best for ML-100K and ML-1M alike."""


def watch_matrix(watched: Sequence[Int64Array], video_count: int) -> sparse.csr_array:
    """1 where a viewer watched a video, float32[v, n], sparse; `watched` are rows of each."""
    lengths = [len(rows) for rows in watched]
    columns = np.concatenate([np.empty(0, np.int64), *watched])
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    ones = np.ones(len(columns), np.float32)
    matrix: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (ones, columns, pointers), shape=(len(watched), video_count)
    )
    return matrix


def popularity_scores(counts: npt.ArrayLike, viewers: int) -> Float32Array:
    """The same score for every viewer: how often each video was watched, float32[v, n]."""
    scores = np.asarray(counts, np.float32)
    return np.broadcast_to(scores, (viewers, len(scores)))


class Ease:
    """Embarrassingly shallow autoencoder: a closed-form item-to-item model.

    The catalogue's square has to fit in memory, and its cube in patience.
    """

    def __init__(
        self, watched: Sequence[Int64Array], video_count: int, regularisation: float | None = None
    ) -> None:
        """Fits on the rows that each viewer watched."""
        matrix = watch_matrix(watched, video_count)
        gram = (matrix.T @ matrix).toarray().astype(np.float64)
        gram[np.diag_indices(video_count)] += regularisation or EASE_REGULARISATION
        inverse = np.linalg.inv(gram)
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        self._weights = weights.astype(np.float32)

    def scores(self, watched: Sequence[Int64Array]) -> Float32Array:
        """Scores of every video for viewers who watched these rows, float32[v, n]."""
        matrix = watch_matrix(watched, len(self._weights))
        return np.asarray(matrix @ self._weights, np.float32)


def full_ranking(
    scores: Float32Array, watched: Sequence[Int64Array], targets: Int64Array
) -> Int64Array:
    """0-based rank of each viewer's target among all videos that the viewer hasn't watched.

    Ties count against the target, so a constant score isn't rewarded.

    Args:
        scores: float32[v, n].
        watched: rows that each viewer has watched, the target not among them.
        targets: row held out for each viewer, int64[v].

    Returns:
        int64[v].
    """
    viewers = np.arange(len(targets))
    own = scores[viewers, targets][:, None]
    # Not-a-number compares false with all: it must not pass for a good score.
    ahead = ~(scores < own)
    ahead[viewers, targets] = False
    for viewer, rows in enumerate(watched):
        ahead[viewer, rows] = False
    ranks: Int64Array = ahead.sum(axis=1, dtype=np.int64)
    return ranks
