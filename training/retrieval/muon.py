"""Muon: each hidden matrix moves by its momentum made orthogonal.

K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; the size of a
step as in J. Liu et al., Muon is Scalable for LLM Training, 2025, section 2.2, so that AdamW's
learning rate serves both. PyTorch's own multiplies in bfloat16, which takes as long as the whole
of a training step on processors without it.
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
"""Root mean square of AdamW's usual step, in learning rates."""


class Muon(torch.optim.Optimizer):
    """For parameters of two dimensions. Memory is once the weights'."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        """Takes the matrices, the learning rate and the decoupled weight decay."""
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step by the gradients at hand; a matrix without one stays."""
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
    """The matrix float[m, n] with all its singular values near 1; zeros stay zeros."""
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    first, third, fifth = _QUINTIC
    for _ in range(_STEPS):
        square = x @ x.T
        x = first * x + (third * square + fifth * square @ square) @ x
    return x.T if tall else x
