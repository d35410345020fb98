"""Videos that the viewer has watched or is watching."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.candidate.filters.membership import absent
from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


@dataclass(frozen=True)
class WatchedFilter:
    """Removes what the viewer has watched; the seed of an UP_NEXT query counts as watched."""

    name: str = "watched"

    def keep(self, query: Retrieval, candidates: Candidates) -> npt.NDArray[np.bool_]:
        """Which candidates the viewer hasn't watched, bool[n]."""
        return absent(query, candidates, query.viewer.watched_keys)
