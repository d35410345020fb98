"""Which candidates are in a list of keys."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates

Int64Array = npt.NDArray[np.int64]


def absent(query: Retrieval, candidates: Candidates, listed: Int64Array) -> npt.NDArray[np.bool_]:
    """Which candidates' keys aren't `listed`, bool[n]; either may repeat itself.

    Marking rows takes a fifth of the time of searching each candidate in the list.
    """
    if not len(listed):
        return np.ones(len(candidates), np.bool_)
    marked = np.zeros(len(query.release.keys), np.bool_)
    rows = query.release.rows.find(listed)
    marked[rows[rows >= 0]] = True
    unlisted: npt.NDArray[np.bool_] = ~marked[candidates.rows]
    return unlisted
