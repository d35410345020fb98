"""Muon: each hidden matrix is updated by its orthogonalised momentum.

K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; step size as in
J. Liu et al., Muon is Scalable for LLM Training, 2025, section 2.2, so that AdamW's learning rate
suits both. PyTorch's own implementation multiplies in bfloat16, which on processors without it
takes as long as a whole training step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
_STEPS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients by which a Newton-Schulz step drives every singular value to about 1."""
_ADAM_RMS = 0.2
"""Typical root mean square of AdamW's step, in units of the learning rate."""


class Muon(torch.optim.Optimizer):
    """Optimiser of two-dimensional parameters. Its state is as large as the weights."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step by the current gradients; a matrix without one is unchanged."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                momentum = state.setdefault("momentum", torch.zeros_like(matrix))
                momentum.mul_(MOMENTUM).add_(matrix.grad)
                direction = orthogonalised(matrix.grad + MOMENTUM * momentum)  # Nesterov's
                size = _ADAM_RMS * math.sqrt(max(matrix.shape))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(direction, alpha=-group["lr"] * size)
        return loss


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return the matrix, float[m, n], with all its singular values near 1; zeros stay zeros."""
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    first, third, fifth = _QUINTIC
    for _ in range(_STEPS):
        square = x @ x.T
        x = first * x + (third * square + fifth * square @ square) @ x
    return x.T if tall else x
