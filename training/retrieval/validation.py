"""Validation: how high the model ranks each viewer's next watch among all unseen videos."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from server.features.tower_inputs import tower_inputs
from server.features.viewer import ViewerFeatures
from training.evaluation.baselines import full_ranking
from training.evaluation.metrics import hit_rate, ndcg, recall
from training.retrieval.data import RetrievalData
from training.retrieval.model import TwoTower, readable

VALIDATION_LIMIT = 10_000
"""More viewers than this are sampled."""
SCORES_AT_ONCE = 8_000_000
"""Bounds the memory of scores, videos x viewers."""


def viewer_scores(
    model: TwoTower, data: RetrievalData, viewers: list[ViewerFeatures]
) -> npt.NDArray[np.float32]:
    """The retrieval score of every video for each viewer, float32[v, n]."""
    model.eval()
    with torch.inference_mode():
        vectors = model.video_vectors()
        table = readable(vectors)
        inputs = tower_inputs(
            viewers, data.video_rows(), data.vocabulary, model.config.history_limit
        )
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        scores = model.viewer_vectors_over(table, **tensors) @ vectors.T
        return np.asarray(scores.numpy(), np.float32)


def validation_ranks(model: TwoTower, data: RetrievalData) -> npt.NDArray[np.int64]:
    """Rank of each viewer's validation watch given the train part as history, int64[v]."""
    viewers = np.flatnonzero(data.validation_rows >= 0)
    if len(viewers) > VALIDATION_LIMIT:
        viewers = np.random.default_rng(0).choice(viewers, VALIDATION_LIMIT, replace=False)
    # Alike lengths together: a batch is padded to its longest.
    viewers = viewers[np.argsort(np.diff(data.offsets)[viewers], kind="stable")]
    size = max(1, min(256, SCORES_AT_ONCE // data.video_count))
    ranks = [np.empty(0, np.int64)]
    for start in range(0, len(viewers), size):
        part = viewers[start : start + size]
        scores = viewer_scores(model, data, [data.viewer_features(int(v)) for v in part])
        watched = [data.watched(int(viewer)) for viewer in part]
        ranks.append(full_ranking(scores, watched, data.validation_rows[part]))
    return np.concatenate(ranks)


def validation_metrics(model: TwoTower, data: RetrievalData) -> dict[str, float]:
    """HR@10, NDCG@10 and Recall@100 on the validation part."""
    ranks = validation_ranks(model, data)
    return {
        "hit_rate_10": hit_rate(ranks, 10),
        "ndcg_10": ndcg(ranks, 10),
        "recall_100": recall(ranks, 100),
    }
