"""Videos that viewers with the same attributes watch more than others do."""

from __future__ import annotations

import numpy as np

from server.arrays import Float32Array, Int64Array
from server.candidate.query import Retrieval
from server.features.tower_inputs import attribute_ids


def propose(query: Retrieval) -> Int64Array:
    """Return the videos of the viewer's attributes, strongest first, ties by key."""
    return query.best(*query.once(_reached))


def score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return the sum of the attributes' weights for each video; 0 if none has one."""
    reached, found = query.once(_reached)
    if not len(reached):
        return np.zeros(len(rows), np.float32)
    place = np.minimum(np.searchsorted(reached, rows), len(reached) - 1)
    return np.where(reached[place] == rows, found[place], np.float32(0))


def _reached(query: Retrieval) -> tuple[Int64Array, Float32Array]:
    """Return the rows that the viewer's attributes lead to, ascending, and their scores."""
    release = query.release
    ids = attribute_ids(query.viewer.attributes, release.vocabulary)
    attributes = ids[ids > 0] - 1
    rows = release.profile_rows[attributes].ravel()
    weights = release.profile_weights[attributes].ravel()
    reached, place = np.unique(rows[weights > 0], return_inverse=True)
    scores = np.bincount(place, weights[weights > 0], minlength=len(reached))
    return reached.astype(np.int64), scores.astype(np.float32)
