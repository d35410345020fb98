"""Metrics of a ranker on held-out viewers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.evaluation.metrics import ndcg
from training.ranking.batches import Batches, Places
from training.ranking.loss import like_loss, listwise_loss
from training.ranking.model import Ranker
from training.ranking.training_set import RankingSet


@dataclass(frozen=True)
class HeldOut:
    """Metrics on held-out viewers; a list without the watched video counts as rank infinity."""

    watch_loss: float
    like_loss: float
    ndcg_10: float

    @property
    def loss(self) -> float:
        """Sum of both tasks' losses."""
        return self.watch_loss + self.like_loss

    def better_than(self, other: HeldOut, floor: float) -> bool:
        """Return whether this is better than `other`.

        If only one of them has an NDCG@10 of at least `floor`, it is the better one; else the one
        with the lower loss.
        """
        reaches, other_reaches = self.ndcg_10 >= floor, other.ndcg_10 >= floor
        return self.loss < other.loss if reaches == other_reaches else reaches


@torch.no_grad()
def measure(
    model: Ranker,
    batches: Batches,
    data: RankingSet,
    lists: Sequence[Places],
    likes: Sequence[Places],
) -> HeldOut:
    """Measure the model on these lists and like labels."""
    model.eval()
    watch, like, ranks = [(0.0, 0)], [(0.0, 0)], [np.empty(0, np.int64)]
    for places in lists:
        inputs, real = batches.watch_inputs(data.watches, places)
        label = torch.from_numpy(data.watches.label[places])
        order, _, _ = model.logits(inputs)
        hits = int((label >= 0).sum())
        watch.append((float(listwise_loss(order, real, label)) * hits, hits))
        own = order.gather(1, label.clamp(min=0)[:, None])
        # Ties count against the video, as in full ranking.
        ahead = (order >= own).logical_and(real).sum(1) - 1
        ranks.append(torch.where(label >= 0, ahead, 1_000_000).numpy())
    for places in likes:
        _, _, logit = model.logits(batches.like_inputs(data.likes, places))
        liked = torch.from_numpy(data.likes.liked[places].astype(np.float32))
        like.append((float(like_loss(logit[:, 0], liked)) * len(places), len(places)))
    return HeldOut(_mean(watch), _mean(like), ndcg(np.concatenate(ranks), 10))


def _mean(parts: Sequence[tuple[float, int]]) -> float:
    total = sum(count for _, count in parts)
    return sum(value for value, _ in parts) / total if total else 0.0
