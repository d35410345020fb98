"""The ranker's inputs, its losses (which video was watched, what followed), and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (as all of PyTorch's world calls it)
from torch import Tensor

from vireo.server.arrays import Float32Array
from vireo.training.metrics import ndcg
from vireo.training.ranking.model import Ranker
from vireo.training.ranking.training_set import (
    CandidateLists,
    RankingSet,
    ShownLists,
)

Places = npt.NDArray[np.intp]


class Batches:
    """Makes model inputs of label events."""

    def __init__(self, vectors: Float32Array) -> None:
        """Look vectors up by row in float32[n, d]."""
        padding = np.zeros((1, vectors.shape[1]), np.float32)  # is looked up by row -1
        self._table = torch.from_numpy(np.concatenate([vectors, padding]))

    def inputs(self, lists: CandidateLists, places: Places) -> tuple[dict[str, Tensor], Tensor]:
        """Return model inputs of the lists at `places`, and a mask of real columns, bool[b, n]."""
        rows, viewers = torch.from_numpy(lists.rows[places]), lists.viewers
        lengths = viewers.history_lengths[places]
        width = max(1, int(lengths.max(initial=0)))
        inputs = {
            "candidate_vectors": self._table[rows],
            "candidate_features": torch.from_numpy(lists.features[places]),
            "retrieval_features": torch.from_numpy(lists.retrieval[places]),
            "match_features": torch.from_numpy(lists.match[places]),
            "history_vectors": self._table[torch.from_numpy(viewers.history_rows[places, :width])],
            "history_lengths": torch.from_numpy(lengths),
            "viewer_features": torch.from_numpy(viewers.viewer_features[places]),
            "attributes": torch.from_numpy(viewers.attributes[places]),
        }
        if viewers.context.shape[1]:
            inputs["context"] = torch.from_numpy(viewers.context[places])
        return inputs, rows >= 0


def chunks(places: Places, size: int) -> Sequence[Places]:
    """Split `places` into chunks of at most `size`."""
    return [places[start : start + size] for start in range(0, len(places), size)]


def listwise_loss(logits: Tensor, real: Tensor, label: Tensor) -> Tensor:
    """Return the mean cross-entropy of the watched video among its list, over lists that have it.

    Args:
        logits: float32[b, n].
        real: bool[b, n], False on padding.
        label: int64[b], column of the watched video, -1 if retrieval missed it.

    Returns:
        float32[]; 0 if no list has its video.
    """
    hit = label >= 0
    masked = logits.masked_fill(~real, -torch.inf)[hit]
    total: Tensor = F.cross_entropy(masked, label[hit], reduction="sum")
    return total / hit.sum().clamp(min=1)


def level_loss(logits: Tensor, real: Tensor, label: Tensor) -> Tensor:
    """Return the binary cross-entropy of all candidates, summed by list, mean over lists.

    It sets the level of the probabilities: a list without the watched video is all negatives, as
    in serving.
    """
    columns = torch.arange(logits.shape[1])
    target = (columns == label[:, None]).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    mean: Tensor = (losses * real).sum(1).mean()
    return mean


def outcome_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of each outcome, float32[t]; 0 if no label is known.

    Args:
        logits: float32[m, t].
        labels: 1 or 0, NaN if unknown, float32[m, t].
    """
    known = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), reduction="none", weight=known.to(logits.dtype)
    )
    return losses.sum(0) / known.sum(0).clamp(min=1)


def slate_loss(
    model: Ranker, batches: Batches, shown: ShownLists, places: Places
) -> tuple[Tensor, Tensor]:
    """Return the losses of the slates at `places`.

    Returns:
        The binary cross-entropy of plays, summed by slate, mean over slates, float32[]; and that of
        each outcome as `outcome_loss` has it, float32[t].
    """
    order, _, outcome = model.logits(batches.inputs(shown, places)[0])
    surface = torch.from_numpy(shown.surface[places])[:, None]
    effect = model.watch_position[surface, torch.from_numpy(shown.position[places])]
    logits = order + model.watch_surface[surface] + effect
    played, labels = (torch.from_numpy(each[places]) for each in (shown.played, shown.outcomes))
    losses = F.binary_cross_entropy_with_logits(logits, played.nan_to_num(), reduction="none")
    plays = (losses * ~played.isnan()).sum(1).mean()
    return plays, outcome_loss(outcome.flatten(0, 1), labels.flatten(0, 1))


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


def label_ranks(logits: Tensor, real: Tensor, label: Tensor) -> Tensor:
    """Return the 0-based rank of each list's watched video, int64[b]; a huge number if missed.

    Arguments are those of `listwise_loss`. Ties count against the video, as in full ranking.
    """
    own = logits.gather(1, label.clamp(min=0)[:, None])
    ahead = (logits >= own).logical_and(real).sum(1) - 1
    return torch.where(label >= 0, ahead, 1_000_000)


@torch.no_grad()
def measure(
    model: Ranker, batches: Batches, data: RankingSet, lists: Places, outcomes: Places
) -> HeldOut:
    """Measure the model on these lists and outcome labels."""
    model.eval()
    watch, ranks = [(0.0, 0)], [np.empty(0, np.int64)]
    none = torch.zeros(0, data.outcomes.labels.shape[1])
    logits, labels = [none], [none]
    for places in chunks(lists, 64):
        inputs, real = batches.inputs(data.watches, places)
        label = torch.from_numpy(data.watches.label[places])
        order, _, _ = model.logits(inputs)
        hits = int((label >= 0).sum())
        watch.append((float(listwise_loss(order, real, label)) * hits, hits))
        ranks.append(label_ranks(order, real, label).numpy())
    for places in chunks(outcomes, 1024):
        _, _, logit = model.logits(batches.inputs(data.outcomes, places)[0])
        logits.append(logit[:, 0])
        labels.append(torch.from_numpy(data.outcomes.labels[places]))
    outcome = float(outcome_loss(torch.cat(logits), torch.cat(labels)).sum())
    return HeldOut(_mean(watch), outcome, ndcg(np.concatenate(ranks), 10))


def _mean(parts: Sequence[tuple[float, int]]) -> float:
    total = sum(count for _, count in parts)
    return sum(value for value, _ in parts) / total if total else 0.0
