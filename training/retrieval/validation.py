"""Validation by the rank of each viewer's next watch among all videos not watched before."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from server.arrays import Float32Array, Int64Array
from server.features.viewer import ViewerFeatures
from training.evaluation.full_ranking import full_ranking
from training.evaluation.metrics import hit_rate, ndcg, recall
from training.retrieval.data import RetrievalData
from training.retrieval.model import TwoTower
from training.retrieval.towers import readable, viewer_vectors

SCORES_AT_ONCE = 8_000_000
"""Scores (videos x viewers) computed at once; bounds memory."""


SCORES = 2_000_000_000
"""Maximum scores (videos x viewers) of a validation; a large catalogue has fewer viewers."""
QUERIES = 500
"""Maximum viewers that an index is measured with."""


def viewer_scores(
    model: TwoTower, data: RetrievalData, viewers: list[ViewerFeatures]
) -> Float32Array:
    """Return the retrieval score of every video for each viewer, float32[v, n]."""
    model.eval()
    with torch.inference_mode():
        vectors = model.video_vectors()
        scores = _vectors(model, data, readable(vectors), viewers) @ vectors.T
        return np.asarray(scores.numpy(), np.float32)


def viewer_queries(model: TwoTower, data: RetrievalData) -> Float32Array:
    """Return vectors of at most QUERIES viewers at their last watch, float32[v, d]."""
    step = max(1, len(data.last_watches) // QUERIES)
    viewers = [one.viewer for one in data.last_watches[::step]][:QUERIES]
    model.eval()
    with torch.inference_mode():
        vectors = model.video_vectors()
        if not viewers:
            return np.empty((0, vectors.shape[1]), np.float32)
        return np.asarray(_vectors(model, data, readable(vectors), viewers).numpy(), np.float32)


def validation_ranks(model: TwoTower, data: RetrievalData) -> Int64Array:
    """Return the rank of each viewer's last validation watch given all before it, int64[v].

    Viewers are sampled so that about SCORES scores are computed.
    """
    step = -(-len(data.validation) * data.video_count // SCORES) or 1
    # By length, since a batch is padded to its longest history.
    held_out = sorted(data.validation[::step], key=lambda one: len(one.watched))
    size = max(1, min(256, SCORES_AT_ONCE // data.video_count))
    ranks = [np.empty(0, np.int64)]
    model.eval()
    with torch.inference_mode():
        vectors = model.video_vectors()
        table = readable(vectors)
        for start in range(0, len(held_out), size):
            part = held_out[start : start + size]
            viewers = _vectors(model, data, table, [one.viewer for one in part])
            scores = np.asarray((viewers @ vectors.T).numpy(), np.float32)
            targets = np.array([one.target for one in part])
            ranks.append(full_ranking(scores, [one.watched for one in part], targets))
    return np.concatenate(ranks)


def _vectors(
    model: TwoTower, data: RetrievalData, table: Tensor, viewers: list[ViewerFeatures]
) -> Tensor:
    """Return viewers' vectors, float32[v, d], given `readable(model.video_vectors())`."""
    inputs = data.inputs(viewers, model.config.history_limit)
    return viewer_vectors(model, table, inputs)


def validation_metrics(model: TwoTower, data: RetrievalData) -> dict[str, float]:
    """Return HR@10, NDCG@10 and Recall@100 on the validation part."""
    ranks = validation_ranks(model, data)
    return {
        "hit_rate_10": hit_rate(ranks, 10),
        "ndcg_10": ndcg(ranks, 10),
        "recall_100": recall(ranks, 100),
    }
