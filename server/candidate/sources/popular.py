"""The recently most watched videos."""

from __future__ import annotations

from server.arrays import Int64Array
from server.candidate.query import Retrieval
from server.pipeline.best import best


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the head of the popular list."""
    release = query.release
    popular = release.popular_rows
    if query.applied is None:
        popular = popular[: limit + len(query.blocked)]
    found = popular[query.free[popular]][:limit]
    if query.applied is None or len(found) == limit:
        return found
    # A filter may leave few of the list, and many of all.
    rows = query.free_rows
    return best(rows, release.popularity.take(rows), release.keys, limit)
