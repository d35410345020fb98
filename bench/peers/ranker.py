"""What every peer serves: the ranking pipeline of a release, over plain arrays.

It imports no stubs, Feast, faiss or torch, which the peers' environments don't have.
"""

from __future__ import annotations

import base64
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.ranking.pipeline import RankingPipeline, RankingQuery
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.signals import SCORES

RELEASE = "VIREO_BENCH_RELEASE"
"""Environment variable with the release's folder."""
PORT = "VIREO_BENCH_PORT"
"""Environment variable with the port; the next one is free too."""
PAGE = 10
_SEPARATOR = "\n"

Arrays = Mapping[str, npt.NDArray[np.generic]]


def load() -> RankingPipeline:
    """Return the pipeline of the release that the environment names."""
    return RankingPipeline(RankingRelease.load(Path(os.environ[RELEASE])))


def arrays_of(query: RankingQuery) -> dict[str, npt.NDArray[np.generic]]:
    """Return a query as arrays of one dimension, by name."""
    viewer = query.viewer
    text = _SEPARATOR.join(viewer.attributes).encode()
    return {
        "keys": query.keys,
        **query.scores,
        "source_masks": query.source_masks,
        "history_keys": viewer.history_keys,
        "history_times": viewer.history_times,
        "counts": np.array([viewer.watch_count, viewer.like_count], np.int64),
        "attributes": np.frombuffer(text, np.uint8),
    }


def unpacked(text: str) -> Arrays:
    """Return arrays from base64 of a pickle, for servers that accept JSON only."""
    arrays: Arrays = pickle.loads(base64.b64decode(text))  # noqa: S301 - our own load generator's
    return arrays


def rank(pipeline: RankingPipeline, arrays: Arrays) -> dict[str, npt.NDArray[np.generic]]:
    """Return `keys` int64[10], and `scores`, `watch_scores` and `like_scores` float32[10]."""
    text = arrays["attributes"].tobytes().decode()
    watches, likes = arrays["counts"].tolist()
    ranked = pipeline.rank(
        RankingQuery(
            viewer=ViewerFeatures(
                history_keys=arrays["history_keys"].astype(np.int64, copy=False),
                history_times=arrays["history_times"].astype(np.int64, copy=False),
                attributes=tuple(text.split(_SEPARATOR)) if text else (),
                watch_count=watches,
                like_count=likes,
            ),
            keys=arrays["keys"].astype(np.int64, copy=False),
            scores={
                score.name: arrays[score.name].astype(np.float32, copy=False) for score in SCORES
            },
            source_masks=arrays["source_masks"].astype(np.uint32, copy=False),
            page_size=PAGE,
        )
    )
    return {
        "keys": ranked.keys,
        "scores": ranked.scores,
        "watch_scores": ranked.tasks["watch"],
        "like_scores": ranked.tasks["like"],
    }
