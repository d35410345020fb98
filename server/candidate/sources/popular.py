"""The recently most watched videos."""

from __future__ import annotations

from server.arrays import Int64Array
from server.candidate.query import Retrieval


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the head of the popular list."""
    popular = query.release.popular_rows[: limit + len(query.blocked)]
    return popular[query.free[popular]][:limit]
