"""Losses of the ranker: which video of a list was watched, and what followed watches."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (as all of PyTorch's world calls it)
from torch import Tensor


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
