"""What EASE expects of each candidate, whichever source proposed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates

COLUMN = "ease"


@dataclass(frozen=True)
class EaseScorer:
    """The EASE score, an input of the ranking model; negative where the watches speak against."""

    name: str = "ease_score"
    columns: tuple[str, ...] = (COLUMN,)
    fail_open: bool = True

    def score(
        self, query: Retrieval, candidates: Candidates
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        """The EASE score of each candidate."""
        if not len(query.ease_scores):
            return {COLUMN: np.zeros(len(candidates), np.float32)}
        return {COLUMN: query.ease_scores[candidates.rows]}
