"""The two stages of a chain, for peers that compose services: plain values in and out.

Like `ranker` it imports no stubs and no Feast.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.peers import ranker
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.ranking.pipeline import RankingPipeline, RankingQuery
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.release import CandidateRelease

VIEWERS = "VIREO_BENCH_VIEWERS"
"""Environment variable with the file of viewers' features."""


class Found(NamedTuple):
    """Candidates in columns."""

    keys: npt.NDArray[np.int64]
    scores: Mapping[str, npt.NDArray[np.float32]]
    source_masks: npt.NDArray[np.uint32]


def load_candidates() -> CandidatePipeline:
    """Return the candidate pipeline of the release that the environment names."""
    return CandidatePipeline(CandidateRelease.load(Path(os.environ[ranker.RELEASE])))


def write_viewers(path: Path, viewers: Mapping[str, ViewerFeatures]) -> None:
    """Write viewers' features by id for `load_viewers`."""
    path.write_bytes(pickle.dumps(viewers))


def load_viewers() -> dict[str, ViewerFeatures]:
    """Return viewers' features by id."""
    body = Path(os.environ[VIEWERS]).read_bytes()
    viewers: dict[str, ViewerFeatures] = pickle.loads(body)  # noqa: S301 - the measurement's own
    return viewers


def retrieve(pipeline: CandidatePipeline, viewer: ViewerFeatures) -> Found:
    """Return as many candidates as the release states."""
    found = pipeline.retrieve(CandidateQuery(viewer, pipeline.release.manifest.candidates))
    return Found(found.keys, found.scores, found.source_masks)


def without_watched(viewer: ViewerFeatures) -> ViewerFeatures:
    """Return the features that ranking reads."""
    return replace(viewer, watched_keys=np.empty(0, np.int64))


def rank(
    pipeline: RankingPipeline, viewer: ViewerFeatures, found: Found, page_size: int
) -> dict[str, list[Any]]:
    """Return the ids and scores of the best candidates."""
    ranked = pipeline.rank(RankingQuery(viewer, *found, page_size=page_size))
    ids = [pipeline.release.ids[row] for row in ranked.rows.tolist()]
    return {"ids": ids, "scores": ranked.scores.tolist()}
