"""New and hardly watched videos, which the other sources are slow to find."""

from __future__ import annotations

from server.arrays import Int64Array
from server.candidate.query import Retrieval


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the fresh videos by two-tower score, whose vectors come from content alone."""
    release = query.release
    return query.best(release.fresh_rows, release.fresh_vectors @ query.vector, limit)
