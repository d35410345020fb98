"""Damps videos that are like those that the viewer has hidden lately."""

from __future__ import annotations

import numpy as np

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.features.looked_up import looked_up
from vireo.server.features.model_inputs import VideoTable
from vireo.server.recommend.ranking.query import Ranking

DAMPED_DAYS = 30.0
"""Days after a hide until videos like the hidden one have all of their score again."""
DAMPING = 0.2
"""Share of its score that such a video keeps right after the hide; it recovers linearly."""
NEAR = 0.8
"""Minimum cosine, of the video vectors or of the content vectors, of a video that is like another.
On ml-100k 4% of the catalogue is like a video."""
MAX_HIDDEN = 50
"""Number of last hidden videos that count."""

_TINY = np.finfo(np.float32).tiny
_DAY = 86_400.0


def damping(query: Ranking, rows: Int64Array) -> Float32Array | None:
    """Return the factor of each video's score, float32[n]; None if all are 1.

    It is below 1 for videos near to a hidden one, or by its creator, for DAMPED_DAYS.

    Args:
        query: the query, of a viewer with hidden videos.
        rows: rows of videos in the query's table, int64[n].
    """
    viewer = query.viewer
    if not len(viewer.hidden_keys):
        return None
    age = np.maximum(viewer.asked_at - viewer.hidden_times, 0) / (DAMPED_DAYS * _DAY)
    recent = np.argsort(age, kind="stable")[:MAX_HIDDEN]
    hidden = query.release.find(viewer.hidden_keys[recent])
    counts = (age[recent] < 1) & (hidden >= 0)
    if not counts.any():
        return None
    kept = DAMPING + (1 - DAMPING) * age[recent][counts]
    factors = np.where(_like(query.table, rows, hidden[counts]), kept, 1.0)
    least: Float32Array = factors.min(1).astype(np.float32)
    return least


def _like(table: VideoTable, rows: Int64Array, hidden: Int64Array) -> BoolArray:
    """Return whether each video is like each hidden one, bool[n, h]."""
    vectors, theirs = (_unit(looked_up(table.vectors, some)) for some in (rows, hidden))
    contents, hers = (looked_up(table.content, some) for some in (rows, hidden))
    creators = table.creators.take(hidden, axis=0)
    like: BoolArray = (vectors @ theirs.T >= NEAR) | (contents @ hers.T >= NEAR)
    like |= (table.creators.take(rows, axis=0)[:, None] == creators) & (creators != -1)
    return like


def _unit(vectors: Float32Array) -> Float32Array:
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    unit: Float32Array = vectors / np.maximum(lengths, _TINY)[:, None]
    return unit
