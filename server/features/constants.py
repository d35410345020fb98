"""The numbers that give features their meaning: a release is valid for these alone."""

from __future__ import annotations

from vireo.server.features.activity import HISTORY_LIMIT, WATCHED_LIMIT
from vireo.server.features.co_watch import CO_WATCH_HALF_LIFE, CO_WATCH_HISTORY
from vireo.server.features.content_match import CONTENT_HALF_LIFE, CONTENT_HISTORY
from vireo.server.features.ranking_inputs import (
    LIKE_PRIOR,
    LIKE_PRIOR_COUNT,
    RANKER_HISTORY,
)
from vireo.server.features.tower_inputs import ATTRIBUTE_LIMIT, GAP_BUCKETS


def feature_constants() -> dict[str, float]:
    """Return the numbers with which this build computes features, by name.

    A model trained with others would read values that it has never seen, though every name and
    shape fits.
    """
    return {
        "activity.history_limit": HISTORY_LIMIT,
        "activity.watched_limit": WATCHED_LIMIT,
        "attributes.limit": ATTRIBUTE_LIMIT,
        "co_watch.half_life": CO_WATCH_HALF_LIFE,
        "co_watch.history": CO_WATCH_HISTORY,
        "content_match.half_life": CONTENT_HALF_LIFE,
        "content_match.history": CONTENT_HISTORY,
        "gaps.buckets": GAP_BUCKETS,
        "like_rate.prior": LIKE_PRIOR,
        "like_rate.prior_count": LIKE_PRIOR_COUNT,
        "ranker.history": RANKER_HISTORY,
    }
