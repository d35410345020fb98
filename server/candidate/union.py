"""The union of what the sources propose."""

from __future__ import annotations

import numpy as np

from server.candidate.query import Retrieval
from server.pipeline.candidates import Candidates


class Union:
    """Merges proposals into at most `count` videos, those that are proposed first."""

    name = "union"

    def select(self, query: Retrieval, candidates: Candidates) -> Candidates:
        """Return one candidate per video, in the order of the proposals.

        Its mask has all sources that proposed it.
        """
        rows, places = candidates.rows, np.arange(len(candidates))
        # Of a column of all videos only what is read is written: it takes no time to make.
        first = np.empty(len(query.release.keys), np.int64)
        first[rows[::-1]] = places[::-1]  # if rows are equal, the last one counts
        earliest = first.take(rows)
        # No source proposes a video twice, so the sum of its bits is their union.
        masks = np.bincount(earliest, candidates.source_masks, len(rows)).astype(np.uint32)
        merged = Candidates(candidates.keys, rows, masks)
        return merged.take((earliest == places).nonzero()[0][: query.query.count])
