"""Videos that the caller doesn't want."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.candidate.filters.membership import absent
from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


@dataclass(frozen=True)
class ExcludedFilter:
    """Removes the keys that the query excludes."""

    name: str = "excluded"

    def keep(self, query: Retrieval, candidates: Candidates) -> npt.NDArray[np.bool_]:
        """Which candidates aren't excluded, bool[n]."""
        return absent(query, candidates, query.query.excluded_keys)
