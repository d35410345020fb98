"""The recently most watched videos."""

from __future__ import annotations

from vireo.server.arrays import Int64Array
from vireo.server.recommend.candidates import best
from vireo.server.recommend.retrieval.query import Retrieval


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the head of the popular list."""
    release = query.release
    popular = release.popular_rows
    # Most filters and histories leave enough of the first; a few leave little of the list.
    for most in (2 * limit + len(query.blocked), len(popular)):
        head = popular[:most]
        found = head[query.is_free(head)][:limit]
        if len(found) == limit:
            return found
    if query.applied is None:
        return found
    rows = query.candidate_rows
    scores = release.popularity.take(rows)
    rows = best(rows, scores, release.keys, limit + len(query.blocked))
    return rows[query.is_free(rows)][:limit]
