"""The viewer's embedding with what the viewer came upon in this session."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from server.arrays import Float32Array
from server.candidate.release import CandidateRelease
from server.features.viewer import ViewerFeatures

if TYPE_CHECKING:
    from server.candidate.query import CandidateQuery


def session_vector(
    release: CandidateRelease, viewer: ViewerFeatures, query: CandidateQuery
) -> Float32Array:
    """Return the viewer's embedding, moved by the session, float32[d].

    A video of weight w counts as a watch at the time of the request in a share w of the embedding,
    so that 1 is a watch, and 0 nothing: for each distinct weight the tower reads the history,
    followed by all videos of at least that weight, and its output weighs the difference to the next
    lower weight. A video that is playing stays the last one. Videos of the history, and unknown
    ones, add nothing.
    """
    weights = query.session_weights
    known = ~np.isin(query.session_keys, viewer.history_keys)
    known &= release.rows.find(query.session_keys) >= 0
    levels = np.unique(weights[known & (weights > 0)])[::-1]
    shares = levels - np.append(levels[1:], np.float32(0))
    place = len(viewer.history_keys) - (query.seed_key is not None)
    asked_at = max(viewer.asked_at, *viewer.history_times[-1:].tolist(), 0)
    rest = np.float32(1 - shares.sum())
    vector: Float32Array
    if rest:
        vector = rest * release.viewer_vector(viewer)
    else:  # there is a weight of 1: without the session the tower needn't run
        vector = np.zeros(release.vectors.shape[1], np.float32)
    for level, share in zip(levels, shares, strict=True):
        keys = query.session_keys[known & (weights >= level)]
        longer = replace(
            viewer,
            history_keys=np.insert(viewer.history_keys, place, keys),
            history_times=np.insert(viewer.history_times, place, [asked_at] * len(keys)),
        )
        vector += share * release.viewer_vector(longer)
    return vector
