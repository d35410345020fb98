"""One scale for the candidates of all sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.candidate.query import Retrieval
from server.features.looked_up import looked_up
from server.pipeline.candidates import Candidates

COLUMN = "two_tower"


@dataclass(frozen=True)
class TwoTowerScorer:
    """Viewer embedding · video embedding, exact even where the index compresses vectors."""

    name: str = "two_tower_score"
    columns: tuple[str, ...] = (COLUMN,)
    fail_open: bool = True

    def score(
        self, query: Retrieval, candidates: Candidates
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        """The dot product of each candidate."""
        return {COLUMN: looked_up(query.release.vectors, candidates.rows) @ query.vector}
