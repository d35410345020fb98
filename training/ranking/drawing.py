"""Draws the candidates of many viewers, as serving draws those of one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from server.candidate.pipeline import CandidatePipeline, CandidateQuery
from server.candidate.release import CandidateRelease
from server.features.ranking_inputs import RETRIEVAL_FEATURES, retrieval_features
from server.features.viewer import ViewerFeatures

_TOWER_BATCH = 64

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


def draw_candidates(
    release: CandidateRelease, viewers: Sequence[ViewerFeatures], count: int
) -> tuple[Int64Array, Float32Array]:
    """`count` candidates of each viewer, best first.

    Returns:
        Rows int64[m, count], -1 where there are fewer, and their RETRIEVAL_FEATURES,
        float32[m, count, 8].

    Raises:
        Exception: whatever a source raised: a model isn't trained on less than it would be
            served.
    """
    pipeline = CandidatePipeline(release, fail_open=False)
    vectors = viewer_vectors(release, viewers)
    rows = np.full((len(viewers), count), -1, np.int64)
    retrieval = np.zeros((len(viewers), count, len(RETRIEVAL_FEATURES)), np.float32)
    console = Console(stderr=True)
    everyone = track(viewers, "drawing candidates", transient=True, console=console)
    for place, viewer in enumerate(everyone):
        query = CandidateQuery(viewer=viewer, count=count, vector=vectors[place])
        drawn = pipeline.retrieve(query)
        found = len(drawn.keys)
        rows[place, :found] = drawn.rows
        retrieval[place, :found] = retrieval_features(
            drawn.two_tower, drawn.co_watch, drawn.ease, drawn.source_masks
        )
    return rows, retrieval


def viewer_vectors(release: CandidateRelease, viewers: Sequence[ViewerFeatures]) -> Float32Array:
    """The embedding of each viewer, float32[m, d], by the tower in batches of like lengths."""
    vectors = np.zeros((len(viewers), release.vectors.shape[1]), np.float32)
    order = np.argsort([len(viewer.history_keys) for viewer in viewers], kind="stable")
    for start in range(0, len(order), _TOWER_BATCH):
        places = order[start : start + _TOWER_BATCH]
        vectors[places] = release.viewer_vectors([viewers[place] for place in places])
    return vectors
