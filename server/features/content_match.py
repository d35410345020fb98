"""The content match: how near a video's content is to that of the last watched videos."""

from __future__ import annotations

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.features.looked_up import Column, looked_up

CONTENT_HISTORY = 50
"""Number of last watched videos that count, at most RANKER_HISTORY: the ranker's training set
keeps no more."""
CONTENT_HALF_LIFE = 5.0
"""Steps back in the history after which a watch counts half."""
_DECAY = (0.5 ** (np.arange(CONTENT_HISTORY)[::-1] / CONTENT_HALF_LIFE)).astype(np.float32)
"""Weight of each of the last watches, oldest first, float32[CONTENT_HISTORY]."""


def content_match(
    history_rows: Int64Array, candidate_rows: Int64Array, content: Column
) -> Float32Array:
    """Return the match of some videos, from -1 to 1; 0 if either side's content is unknown.

    Args:
        history_rows: rows of the known videos watched, oldest first, int64[h].
        candidate_rows: rows of the videos to match, int64[m].
        content: content vectors of length 1, or 0 if nothing is known, float32[n, c] or
            float16[n, c].

    Returns:
        float32[m]: the cosine of the video's content vector and the mean of the last
        CONTENT_HISTORY watches', each weighted by 0.5 ** (steps back / CONTENT_HALF_LIFE).
    """
    recent = history_rows[-CONTENT_HISTORY:]
    taste = _DECAY[CONTENT_HISTORY - len(recent) :] @ looked_up(content, recent)
    length = np.linalg.norm(taste)
    if length > 0:
        taste = taste / length
    matches: Float32Array = looked_up(content, candidate_rows) @ taste
    return matches
