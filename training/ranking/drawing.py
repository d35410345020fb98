"""Retrieve the candidates of many viewers by the pipeline that serves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from server.arrays import Float32Array, Int64Array
from server.candidate.pipeline import CandidatePipeline, CandidateQuery
from server.candidate.release import CandidateRelease
from server.features.ranking_inputs import RETRIEVAL_FEATURES, retrieval_features
from server.features.viewer import ViewerFeatures
from training.heartbeat import tracked


def draw_candidates(
    release: CandidateRelease,
    viewers: Sequence[ViewerFeatures],
    count: int,
    title: str = "drawing candidates",
) -> tuple[Int64Array, Float32Array]:
    """Return up to `count` candidates of each of m viewers, best first.

    Returns:
        Rows int64[m, count], padded with -1, and their RETRIEVAL_FEATURES, float32[m, count, r].

    Raises:
        Exception: any error of a source: without its candidates, training would differ from
            serving.
    """
    pipeline = CandidatePipeline(release, fail_open=False)
    rows = np.full((len(viewers), count), -1, np.int64)
    retrieval = np.zeros((len(viewers), count, len(RETRIEVAL_FEATURES)), np.float32)
    for place, viewer in enumerate(tracked(viewers, title, Console(stderr=True))):
        # The tower also runs on single viewers: a batch rounds differently, which would change
        # the order of videos with nearly equal scores.
        drawn = pipeline.retrieve(CandidateQuery(viewer=viewer, count=count))
        found = len(drawn.keys)
        rows[place, :found] = drawn.rows
        retrieval[place, :found] = retrieval_features(drawn.scores, drawn.source_masks)
    return rows, retrieval
