"""The EASE score: what an item-to-item model expects of a viewer's recent history."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EASE_HISTORY = 30
"""How many of the last watched videos count; further ones changed nothing that was measured."""
EASE_HALF_LIFE = 5.0
"""Steps back in the history after which a watch counts half."""

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


def ease_scores(
    history_rows: Int64Array, model_rows: npt.NDArray[np.int32], weights: Float32Array
) -> Float32Array:
    """The score of every video, negative where the history speaks against it.

    Args:
        history_rows: rows of the known videos watched, oldest first, int64[h].
        model_rows: videos that each video speaks for or against most, int32[n, k].
        weights: how strongly, float32[n, k].

    Returns:
        float32[n]: the sum over the last EASE_HISTORY watches of
        0.5 ** (steps back / EASE_HALF_LIFE) x weight.
    """
    recent = history_rows[-EASE_HISTORY:]
    steps_back = np.arange(len(recent) - 1, -1, -1)
    decay = 0.5 ** (steps_back / EASE_HALF_LIFE)
    parts = (weights[recent] * decay[:, None]).ravel()
    scores = np.bincount(model_rows[recent].ravel(), parts, minlength=len(model_rows))
    return scores.astype(np.float32)
