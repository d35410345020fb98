"""Ranks of the held-out videos among all that a viewer hasn't watched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


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
