"""Golden requests: PyTorch's outputs for a few real viewers, which every pod replays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vireo.server.features.content import CONTENT_LIMIT
from vireo.server.features.keys import VideoRows
from vireo.server.features.model_inputs import (
    RANKER_HISTORY,
    VideoTable,
    ranking_inputs,
    retrieval_features,
)
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.export import ContentTower
from vireo.training.retrieval.model import TwoTower, readable, viewer_vectors

GOLDEN_VIEWERS = 8
GOLDEN_CANDIDATES = 32
GOLDEN_VIDEOS = 64

Arrays = Mapping[str, npt.NDArray[Any]]
Answer = Callable[[dict[str, npt.NDArray[Any]]], npt.NDArray[np.float32]]
"""Computes a ranker's outputs, float32[b, n, 2], from its inputs."""


def golden_viewers(data: RetrievalData) -> list[ViewerFeatures]:
    """Return viewers with short to full histories, an unknown one, and one without a profile.

    Their requests come right after their last watch, or up to weeks later.
    """
    lengths = np.diff(data.train.offsets)
    places = np.linspace(0, len(lengths) - 1, min(GOLDEN_VIEWERS, len(lengths))).astype(int)
    chosen = [data.viewer_features(int(viewer)) for viewer in np.argsort(lengths)[places]]
    known = [
        replace(
            viewer,
            watch_count=len(viewer.watched_keys),
            asked_at=int(viewer.history_times.max(initial=0)) + 8**number,
        )
        for number, viewer in enumerate(chosen)
    ]
    return [ViewerFeatures(), replace(known[-1], attributes=(), asked_at=0), *known]


def write_tower_goldens(
    model: TwoTower,
    vectors: npt.NDArray[np.float32],
    viewers: Sequence[ViewerFeatures],
    data: RetrievalData,
    path: Path,
) -> None:
    """Write one batch of viewer tower requests and PyTorch's outputs.

    `vectors` are the release's, float32[n, d].
    """
    inputs = data.inputs(viewers, model.config.history_limit)
    model.eval()
    with torch.no_grad():
        table = readable(torch.from_numpy(vectors))
        answers = viewer_vectors(model, table, inputs).numpy()
    save_golden(path, inputs, {"viewer_vector": answers})


@torch.no_grad()
def write_video_goldens(tower: ContentTower, data: RetrievalData, path: Path) -> None:
    """Write the content of some videos and of one without any, and PyTorch's vectors of them."""
    chosen = np.linspace(0, data.video_count - 1, min(GOLDEN_VIDEOS, data.video_count)).astype(int)
    empty = np.zeros((1, CONTENT_LIMIT), np.int64)
    content = np.concatenate([data.content[chosen].astype(np.int64), empty])
    vectors = tower(torch.from_numpy(content)).numpy()
    save_golden(path, {"content": content}, {"video_vectors": vectors})


def write_ranker_goldens(
    answer: Answer,
    viewers: Sequence[ViewerFeatures],
    release: CandidateRelease,
    table: VideoTable,
    path: Path,
) -> None:
    """Write a batch of ranker requests over retrieved candidates, and the outputs.

    Histories are padded on the right.
    """
    pipeline = CandidatePipeline(release, fail_open=False)
    retrieved = [
        (viewer, pipeline.retrieve(CandidateQuery(viewer=viewer, count=GOLDEN_CANDIDATES)))
        for viewer in viewers
    ]
    # A batch has one width, but in a small catalogue a viewer may have watched nearly everything.
    drawn = [(viewer, candidates) for viewer, candidates in retrieved if len(candidates.keys)]
    width = min(len(candidates.keys) for _, candidates in drawn)
    single = []
    for viewer, candidates in drawn:
        found = VideoRows(release.keys).find(viewer.history_keys)
        retrieval = retrieval_features(candidates.scores, candidates.source_masks)
        inputs = ranking_inputs(
            viewer,
            found[found >= 0],
            candidates.rows[:width],
            retrieval[:width],
            table,
            release.vocabulary,
            release.context,
        )
        history = inputs["history_vectors"]
        missing = RANKER_HISTORY - history.shape[1]
        inputs["history_vectors"] = np.pad(history, ((0, 0), (0, missing), (0, 0)))
        single.append(inputs)
    batch = {name: np.concatenate([inputs[name] for inputs in single]) for name in single[0]}
    save_golden(path, batch, {"scores": answer(batch)})


def save_golden(path: Path, inputs: Arrays, outputs: Arrays) -> None:
    """Write requests and outputs in the format of `vireo.server.releases.layout`."""
    arrays = {f"input/{name}": array for name, array in inputs.items()}
    arrays |= {f"output/{name}": array for name, array in outputs.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
