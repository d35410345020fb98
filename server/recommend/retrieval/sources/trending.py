"""What is played more than other videos right now, in the viewer's locale first."""

from __future__ import annotations

import numpy as np

from vireo.server.arrays import Int64Array
from vireo.server.recommend.retrieval.query import Retrieval
from vireo.server.signals import COLD_SHARE


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the release's trending videos, the heaviest first; none without a log."""
    live = query.release.live
    if live is None:
        return np.empty(0, np.int64)
    if not len(query.viewer.history_keys):
        limit = max(limit, int(COLD_SHARE * query.query.count))
    rows = live.trending(query.query.locale).rows
    return rows[query.is_free(rows)][:limit]
