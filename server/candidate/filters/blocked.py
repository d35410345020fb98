"""Removes watched and excluded videos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server.arrays import BoolArray
from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


@dataclass(frozen=True)
class BlockedFilter:
    """Removes watched and excluded videos; the seed of an UP_NEXT query counts as watched."""

    name: str = "blocked"

    def keep(self, query: Retrieval, candidates: Candidates) -> BoolArray:
        """Return which candidates are neither watched nor excluded, bool[n]."""
        if not len(query.blocked_rows):
            return np.ones(len(candidates), np.bool_)
        # Marking rows takes a fifth of the time of np.isin.
        free = np.ones(len(query.release.keys), np.bool_)
        free[query.blocked_rows] = False
        kept: BoolArray = free[candidates.rows]
        return kept
