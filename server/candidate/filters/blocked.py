"""Removes watched and excluded videos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


@dataclass(frozen=True)
class BlockedFilter:
    """Removes watched and excluded videos; the seed of an UP_NEXT query counts as watched."""

    name: str = "blocked"

    def keep(self, query: Retrieval, candidates: Candidates) -> npt.NDArray[np.bool_]:
        """Return which candidates are neither watched nor excluded, bool[n]."""
        if not len(query.blocked_rows):
            return np.ones(len(candidates), np.bool_)
        # Marking rows takes a fifth of the time of np.isin.
        free = np.ones(len(query.release.keys), np.bool_)
        free[query.blocked_rows] = False
        kept: npt.NDArray[np.bool_] = free[candidates.rows]
        return kept
