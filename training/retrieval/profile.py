"""The profile table: for each attribute, the videos that its viewers watch more than others do."""

from __future__ import annotations

import numpy as np

from server.arrays import Float32Array, Int32Array
from training.retrieval.data import RetrievalData

PROFILE_VIDEOS = 500
"""Videos kept for each attribute."""
_PRIOR = 5.0
"""Added to expected watches, so that rarely watched videos don't lead by chance."""


def profile_table(data: RetrievalData, k: int = PROFILE_VIDEOS) -> tuple[Int32Array, Float32Array]:
    """Return the k videos of each attribute that stand out most in the train part.

    A video's weight is the number of standard deviations by which watches by the attribute's
    viewers exceed those expected from its share of all watches:
    (observed - expected) / sqrt(expected + prior).

    Returns:
        Rows int32[a, k] and weights float32[a, k], the strongest first, 0 if fewer than k stand
        out; row i belongs to attribute i + 1, and k is at most the number of videos.
    """
    count, k = len(data.vocabulary), min(k, data.video_count)
    viewer = np.repeat(np.arange(data.viewer_count), np.diff(data.offsets))
    share = data.watch_counts() / max(data.watch_count, 1)
    attributes = data.attributes()
    rows, weights = np.zeros((count, k), np.int32), np.zeros((count, k), np.float32)
    for attribute in range(count):
        have = (attributes == attribute + 1).any(1)
        watches = data.rows[have[viewer]]
        expected = share * len(watches)
        excess = np.bincount(watches, minlength=data.video_count) - expected
        strength = (excess / np.sqrt(expected + _PRIOR)).astype(np.float32)
        # Stable, so that equal weights are always in the same order.
        best = np.argsort(-strength, kind="stable")[:k]
        rows[attribute], weights[attribute] = best, np.maximum(strength[best], 0)
    return rows, weights
