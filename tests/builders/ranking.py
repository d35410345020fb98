"""Queries of a ranking pipeline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.builders.viewers import viewer_of_rows
from vireo.server.features.keys import video_keys
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.ranking.pipeline import RankingQuery
from vireo.server.signals import SCORES


def ranking_query(
    ids: Sequence[str], page_size: int = 100, viewer: ViewerFeatures | None = None
) -> RankingQuery:
    """Return a query for some videos, by default of a viewer who watched two of a release."""
    count = len(ids)
    return RankingQuery(
        viewer=viewer or viewer_of_rows(1, 2),
        keys=video_keys(ids),
        scores={each.name: np.linspace(1, 0, count, dtype=np.float32) for each in SCORES},
        source_masks=np.full(count, 2, np.uint32),
        page_size=page_size,
    )


def of_rows(
    rows: Sequence[int], page_size: int = 100, viewer: ViewerFeatures | None = None
) -> RankingQuery:
    """Return a query for the videos of some rows; a negative row is a key that nobody knows."""
    return ranking_query([f"video-{row}" for row in rows], page_size, viewer)
