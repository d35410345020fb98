"""Ranks of the held-out videos among all that a viewer hasn't watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array

_CHUNK_SCORES = 20_000_000
"""Maximum scores in memory at a time."""


def full_ranking(
    scores: Float32Array, watched: Sequence[Int64Array], targets: Int64Array
) -> Int64Array:
    """Return the 0-based rank of each target among the videos its viewer hasn't watched, int64[v].

    Ties count against the target, so that a constant score isn't rewarded.

    Args:
        scores: float32[v, n].
        watched: rows that each viewer has watched, the target not among them.
        targets: row held out for each viewer, int64[v].
    """
    viewers = np.arange(len(targets))
    own = scores[viewers, targets][:, None]
    # Comparisons with NaN are false: it must not pass for a good score.
    ahead = ~(scores < own)
    ahead[viewers, targets] = False
    for viewer, rows in enumerate(watched):
        ahead[viewer, rows] = False
    ranks: Int64Array = ahead.sum(axis=1, dtype=np.int64)
    return ranks


def viewer_chunks(viewers: int, videos: int) -> Iterator[slice]:
    """Yield slices of the viewers whose scores of every video fit in memory together."""
    size = max(1, _CHUNK_SCORES // max(videos, 1))
    for start in range(0, viewers, size):
        yield slice(start, start + size)
