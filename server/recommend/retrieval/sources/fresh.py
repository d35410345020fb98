"""New and hardly watched videos, which the other sources are slow to find."""

from __future__ import annotations

from vireo.server.arrays import Int64Array
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.recommend.retrieval.sources import two_tower


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the fresh videos by two-tower score, whose vectors come from content alone."""
    release = query.release
    if release.index.exact:
        # Every video's score is computed anyway.
        scores = two_tower.score(query, release.fresh_rows)
    else:
        scores = release.fresh_vectors @ query.vector
    return query.best(release.fresh_rows, scores, limit)
