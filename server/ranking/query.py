"""What the ranking pipeline is asked, and what its stages share about one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.features.viewer import ViewerFeatures
from server.ranking.release import RankingRelease


@dataclass(frozen=True)
class RankingQuery:
    """Candidates to rank, in columns of equal length."""

    viewer: ViewerFeatures
    keys: npt.NDArray[np.int64]
    """int64[n]."""
    scores: Mapping[str, npt.NDArray[np.float32]]
    """Each of `signals.SCORES` as retrieved, float32[n]."""
    source_masks: npt.NDArray[np.uint32]
    """uint32[n]."""
    page_size: int
    """How many of the best to return."""
    seed_key: int | None = None
    """The video that is playing; None on HOME."""


@dataclass(frozen=True)
class Ranking:
    """One query against one release."""

    release: RankingRelease
    query: RankingQuery
    viewer: ViewerFeatures
    """The query's viewer, with the seed as the last video watched."""
    rows: npt.NDArray[np.int64]
    """Rows of the query's keys in the release's tables, int64[n]; -1 for unknown ones."""

    @staticmethod
    def of(release: RankingRelease, query: RankingQuery) -> Ranking:
        """Prepares `query`."""
        rows = release.rows.find(query.keys)
        if query.seed_key is None:
            return Ranking(release, query, query.viewer, rows)
        return Ranking(release, query, query.viewer.playing(query.seed_key), rows)
