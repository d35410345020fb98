"""Turns logits into honest probabilities: one scale and one offset a task (Platt)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (as all of PyTorch's world calls it)
from torch import Tensor

_SHRINKAGE = 1e-3
"""Pull to scale 1 per example, so that a handful of labels can't turn the order around."""
_SMALLEST_SCALE = 1e-2


def fit_platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """The scale (above 0, so that no order changes) and offset of least cross-entropy.

    Args:
        logits: float32[m], of held-out examples.
        labels: float32[m], 0 or 1.

    Returns:
        (1, 0) where there are no examples of one of the two kinds.
    """
    positives = float(labels.sum())
    if not 0 < positives < len(labels):
        return 1.0, 0.0
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    values, wanted = logits.double(), labels.double()
    optimizer = torch.optim.LBFGS([log_scale, offset], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = F.binary_cross_entropy_with_logits(
            values * log_scale.exp() + offset, wanted, reduction="sum"
        )
        loss = loss / positives + _SHRINKAGE * log_scale.square()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return max(float(log_scale.detach().exp()), _SMALLEST_SCALE), float(offset.detach())
