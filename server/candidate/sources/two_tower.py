"""Videos nearest to the viewer tower's embedding; its score puts all sources on one scale."""

from __future__ import annotations

import numpy as np

from server.arrays import Float32Array, Int64Array
from server.candidate.query import Retrieval
from server.features.looked_up import looked_up
from server.pipeline.best import best


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the nearest videos."""
    release, applied = query.release, query.applied
    if release.index.exact:
        # The products of all videos, which scores need anyway, take a tenth of the index's search.
        free = query.free_rows
        return best(free, query.once(_every_score)[free], release.keys, limit)
    if applied is None:
        return release.index.nearest(query.vector, limit, query.blocked)
    allowed, also = applied.allowed, applied.allowed_rows
    if allowed.vectors is None:
        return release.index.nearest_allowed(query.vector, limit, query.blocked, allowed, also)
    scores = allowed.vectors @ query.vector
    if len(also):
        scores = np.concatenate([scores, looked_up(release.vectors, also) @ query.vector])
    return query.best(np.concatenate([allowed.rows, also]), scores, limit)


def score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return the exact inner products, even if the index compresses vectors."""
    if query.release.index.exact:
        return query.once(_every_score)[rows]
    return looked_up(query.release.vectors, rows) @ query.vector


def _every_score(query: Retrieval) -> Float32Array:
    """Return the inner product of every video, float32[n]."""
    scores: Float32Array = query.release.vectors @ query.vector
    return scores
