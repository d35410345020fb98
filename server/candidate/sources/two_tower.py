"""Videos nearest to the viewer tower's embedding; its score puts all sources on one scale."""

from __future__ import annotations

from server.arrays import Float32Array, Int64Array
from server.candidate.query import Retrieval
from server.features.looked_up import looked_up


def propose(query: Retrieval) -> Int64Array:
    """Return the nearest videos by index search, without watched and excluded ones."""
    return query.release.index.nearest(query.vector, query.query.count, query.blocked_rows)


def score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return the exact inner products, even if the index compresses vectors."""
    return looked_up(query.release.vectors, rows) @ query.vector
