"""Draws the candidates of many viewers, as serving draws those of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.console import Console

from server.candidate.pipeline import CandidatePipeline, CandidateQuery
from server.candidate.release import CandidateRelease
from server.features.ranking_inputs import RETRIEVAL_FEATURES, retrieval_features
from server.features.viewer import ViewerFeatures
from training.heartbeat import tracked

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


def draw_candidates(
    release: CandidateRelease,
    viewers: Sequence[ViewerFeatures],
    count: int,
    title: str = "drawing candidates",
) -> tuple[Int64Array, Float32Array]:
    """Return `count` candidates of each viewer, best first.

    Args:
        release: whose candidates.
        viewers: who asks.
        count: how many candidates each gets.
        title: what a bar says meanwhile.

    Returns:
        Rows int64[m, count], -1 where there are fewer, and their RETRIEVAL_FEATURES,
        float32[m, count, r].

    Raises:
        Exception: whatever a source raised: a model isn't trained on less than it would be
            served.
    """
    pipeline = CandidatePipeline(release, fail_open=False)
    rows = np.full((len(viewers), count), -1, np.int64)
    retrieval = np.zeros((len(viewers), count, len(RETRIEVAL_FEATURES)), np.float32)
    for place, viewer in enumerate(tracked(viewers, title, Console(stderr=True))):
        # The tower too is asked for one at a time: a batch of it rounds otherwise, and of two
        # videos that score alike the other would come first.
        drawn = pipeline.retrieve(CandidateQuery(viewer=viewer, count=count))
        found = len(drawn.keys)
        rows[place, :found] = drawn.rows
        retrieval[place, :found] = retrieval_features(drawn.scores, drawn.source_masks)
    return rows, retrieval
