"""Removes blocked videos and those that the query's filter forbids, should a source propose one."""

from __future__ import annotations

from server.arrays import BoolArray
from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


class BlockedFilter:
    """Removes videos that aren't free; the seed of an UP_NEXT query counts as watched."""

    name = "blocked"

    def keep(self, query: Retrieval, candidates: Candidates) -> BoolArray:
        """Return which candidates are free, bool[n]."""
        return query.is_free(candidates.rows)
