"""Metrics of a ranker on held-out viewers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vireo.training.evaluation.metrics import ndcg
from vireo.training.ranking.batches import Batches, Places
from vireo.training.ranking.loss import listwise_loss, outcome_loss
from vireo.training.ranking.model import Ranker
from vireo.training.ranking.training_set import RankingSet


@dataclass(frozen=True)
class HeldOut:
    """Metrics on held-out viewers; a list without the watched video counts as rank infinity."""

    watch_loss: float
    outcome_loss: float
    """Sum over the tasks of what follows a watch."""
    ndcg_10: float

    @property
    def loss(self) -> float:
        """Sum of all tasks' losses."""
        return self.watch_loss + self.outcome_loss

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
    outcomes: Sequence[Places],
) -> HeldOut:
    """Measure the model on these lists and outcome labels."""
    model.eval()
    watch, ranks = [(0.0, 0)], [np.empty(0, np.int64)]
    none = torch.zeros(0, data.outcomes.labels.shape[1])
    logits, labels = [none], [none]
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
    for places in outcomes:
        _, _, logit = model.logits(batches.outcome_inputs(data.outcomes, places))
        logits.append(logit[:, 0])
        labels.append(torch.from_numpy(data.outcomes.labels[places]))
    outcome = float(outcome_loss(torch.cat(logits), torch.cat(labels)).sum())
    return HeldOut(_mean(watch), outcome, ndcg(np.concatenate(ranks), 10))


def _mean(parts: Sequence[tuple[float, int]]) -> float:
    total = sum(count for _, count in parts)
    return sum(value for value, _ in parts) / total if total else 0.0
