"""The optimiser, with sparse updates of large embeddings: untouched rows stay unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.model import TwoTower

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


class TowerOptimizer:
    """Muon for the matrices of the viewer tower's blocks, AdamW for everything else.

    On ml-1m, validation NDCG@10 was .129 after two epochs with Muon, and .123 after three with
    AdamW alone. The id embedding, if its gradient is sparse, is trained by SparseAdam, without
    weight decay. The state takes at most twice the weights' memory.
    """

    def __init__(self, model: TwoTower, config: RetrievalConfig) -> None:
        ids = model.video_tower.id_embedding
        by_row = {id(ids.weight)} if ids.sparse else set()
        parameters = list(model.parameters())
        self.rows = [parameter for parameter in parameters if id(parameter) in by_row]
        """Parameters with sparse gradients."""
        self.dense = [parameter for parameter in parameters if id(parameter) not in by_row]
        """Parameters with dense gradients."""
        self._clip = config.clip
        rate, decay, betas = config.learning_rate, config.weight_decay, (0.9, 0.98)
        blocks = list(model.viewer_tower.blocks.modules())
        hidden = [layer.weight for layer in blocks if isinstance(layer, nn.Linear)]
        by_muon = {id(matrix) for matrix in hidden}
        others = [parameter for parameter in self.dense if id(parameter) not in by_muon]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rate, weight_decay=decay, betas=betas, fused=True),
            Muon(cast(list[nn.Parameter], hidden), lr=rate, weight_decay=decay),
        ]
        if self.rows:
            self._optimizers.append(torch.optim.SparseAdam(self.rows, lr=rate, betas=betas))

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def clip(self) -> None:
        """Clip the joint norm of all gradients to the configured maximum."""
        sparse = []
        for parameter in self.rows:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.coalesce()
                sparse.append(parameter.grad.values())
        dense = [parameter.grad for parameter in self.dense if parameter.grad is not None]
        norm = get_total_norm([*dense, *sparse])
        clip_grads_with_norm_(self.dense, self._clip, norm)
        for values in sparse:
            values.mul_((self._clip / (norm + 1e-6)).clamp(max=1.0))

    def touched(self) -> list[Tensor]:
        """Return, for each of `rows`, the rows with a gradient, int64[t]; call after `clip`."""
        none = torch.empty(0, dtype=torch.int64)
        return [
            none if parameter.grad is None else parameter.grad.indices()[0]
            for parameter in self.rows
        ]

    def step(self, learning_rate: float) -> None:
        """Take one step by the current gradients."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state that `load_state_dict` restores."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` returned."""
        for optimizer, own in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(own)
