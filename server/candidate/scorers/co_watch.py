"""How strongly the history leads to each candidate, whichever source proposed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates

COLUMN = "co_watch"


@dataclass(frozen=True)
class CoWatchScorer:
    """The co-watch score, an input of the ranking model; 0 where the history leads elsewhere."""

    name: str = "co_watch_score"
    columns: tuple[str, ...] = (COLUMN,)
    fail_open: bool = True

    def score(
        self, query: Retrieval, candidates: Candidates
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        """The co-watch score of each candidate."""
        rows, found = query.co_watched
        if not len(rows):
            return {COLUMN: np.zeros(len(candidates), np.float32)}
        place = np.minimum(np.searchsorted(rows, candidates.rows), len(rows) - 1)
        reached = rows[place] == candidates.rows
        return {COLUMN: np.where(reached, found[place], np.float32(0))}
