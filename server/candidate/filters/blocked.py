"""Removes watched and excluded videos, should a source propose one."""

from __future__ import annotations

from server.arrays import BoolArray
from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


class BlockedFilter:
    """Removes watched and excluded videos; the seed of an UP_NEXT query counts as watched."""

    name = "blocked"

    def keep(self, query: Retrieval, candidates: Candidates) -> BoolArray:
        """Return which candidates are neither watched nor excluded, bool[n]."""
        return query.free[candidates.rows]
