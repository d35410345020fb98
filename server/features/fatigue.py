"""How often a viewer was shown a video of late: by one definition in ranking and in its fit."""

from __future__ import annotations

import numpy as np

from vireo.server.arrays import Float64Array, Int64Array

FATIGUE_HALF_LIFE = 7 * 86_400.0
"""Seconds after which an impression counts half."""


def times_shown(
    keys: Int64Array, shown_keys: Int64Array, shown_times: Int64Array, now: int
) -> Float64Array:
    """Return how often videos were shown by `now`, by what is left of each time, float64[n].

    Args:
        keys: different videos, int64[n], at least one.
        shown_keys: the video of each impression, int64[s].
        shown_times: when it was, Unix seconds, int64[s].
        now: Unix seconds.
    """
    order = np.argsort(keys)
    places = order.take(np.searchsorted(keys, shown_keys, sorter=order), mode="clip")
    same = keys.take(places) == shown_keys
    counts = 0.5 ** (np.maximum(now - shown_times[same], 0) / FATIGUE_HALF_LIFE)
    return np.bincount(places[same], counts, len(keys)).astype(np.float64)
