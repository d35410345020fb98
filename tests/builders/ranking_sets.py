"""Ranking sets in which the watched video follows from one retrieval feature."""

from __future__ import annotations

import numpy as np

from vireo.server.arrays import Float32Array
from vireo.server.features.model_inputs import (
    ATTRIBUTE_LIMIT,
    MATCH_FEATURES,
    RANKER_HISTORY,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from vireo.server.releases.manifest import FeatureSchema
from vireo.server.signals import OUTCOMES
from vireo.training.ranking.training_set import (
    OutcomeLabels,
    RankingSet,
    ViewerColumns,
    WatchLists,
)

VIDEOS, VECTOR_SIZE, LISTS, CANDIDATES, LIKES, ATTRIBUTES = 50, 8, 200, 20, 600, 3
SCHEMA = FeatureSchema.ours(history_limit=200, vector_size=VECTOR_SIZE)
VECTORS: Float32Array = (
    np.random.default_rng(0).normal(size=(VIDEOS, VECTOR_SIZE)).astype(np.float32)
)
LIKE_RATE = VIDEO_FEATURES.index("like_rate")


def viewers(random: np.random.Generator, count: int) -> ViewerColumns:
    """Some viewers, every fourth of whom is held out."""
    lengths = random.integers(0, RANKER_HISTORY + 1, count)
    history = random.integers(0, VIDEOS, (count, RANKER_HISTORY))
    history[np.arange(RANKER_HISTORY) >= lengths[:, None]] = -1
    return ViewerColumns(
        history_rows=history,
        history_lengths=lengths,
        viewer_features=random.random((count, len(VIEWER_FEATURES)), np.float32),
        attributes=random.integers(0, ATTRIBUTES + 1, (count, ATTRIBUTE_LIMIT)),
        context=np.empty((count, 0), np.int64),
        viewer=np.arange(count),
        held_out=np.arange(count) % 4 == 0,
    )


def ranking_set(column: str, seed: int = 1) -> RankingSet:
    """The watched video is the one with the most of a retrieval feature, nearly always.

    The liked ones are those with a high like rate of the video; nothing else says anything.
    """
    random = np.random.default_rng(seed)
    retrieval = random.random((LISTS, CANDIDATES, len(RETRIEVAL_FEATURES)), np.float32)
    sources = RETRIEVAL_FEATURES.index("from_two_tower")
    retrieval[..., sources:] = retrieval[..., sources:] > 0.5
    best = retrieval[..., RETRIEVAL_FEATURES.index(column)].argmax(1)
    label = np.where(random.random(LISTS) < 0.9, best, random.integers(0, CANDIDATES, LISTS))
    label[:20] = -1
    rows = np.stack([random.permutation(VIDEOS)[:CANDIDATES] for _ in range(LISTS)])
    table = random.random((VIDEOS, len(VIDEO_FEATURES)), np.float32)
    watched = random.integers(0, VIDEOS, (LIKES, 1))
    liked = np.full((LIKES, len(OUTCOMES)), np.nan, np.float32)  # other outcomes are unknown
    found = RankingSet(
        WatchLists(
            viewers=viewers(random, LISTS),
            rows=rows,
            features=table[rows],
            retrieval=retrieval,
            match=random.random((LISTS, CANDIDATES, len(MATCH_FEATURES)), np.float32),
            label=label,
        ),
        OutcomeLabels(
            viewers=viewers(random, LIKES),
            rows=watched,
            features=table[watched],
            retrieval=np.zeros((LIKES, 1, len(RETRIEVAL_FEATURES)), np.float32),
            match=random.random((LIKES, 1, len(MATCH_FEATURES)), np.float32),
            labels=liked,
        ),
    )
    liked[:, 0] = random.random(LIKES) < table[watched[:, 0], LIKE_RATE]
    return found
