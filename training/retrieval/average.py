"""Moving average of the weights, at no cost for embedding rows that don't change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from training.retrieval.model import ROWS_AT_ONCE, TwoTower


class MovingAverage:
    """An exponential moving average of a model's weights.

    Rows of a large embedding are updated lazily, when they change and when the average is read:
    while a row stays as it is, k steps amount to one update by decay^k. The average equals, up to
    rounding, one that updates every row at every step.
    """

    def __init__(self, model: TwoTower, rows: Sequence[nn.Parameter]) -> None:
        """Start from the model's weights; `rows` are its parameters with sparse gradients."""
        # Buffers describe the catalogue and are constant, so both models share them.
        shared = {id(buffer): buffer for buffer in model.buffers()}
        self.model = deepcopy(model, shared).requires_grad_(False)
        """The averaged weights; lazily updated rows are current after `settle`."""
        self._pairs: list[tuple[Tensor, nn.Parameter]] = []
        self._rows: list[tuple[Tensor, nn.Parameter]] = []
        for average, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            by_row = any(weight is parameter for parameter in rows)
            (self._rows if by_row else self._pairs).append((average, weight))
        # Logarithms of the decay accumulated over all steps, and of the part applied to each row.
        self._decayed = 0.0
        self._had = [torch.zeros(len(weight), dtype=torch.float64) for _, weight in self._rows]

    def before_step(self, touched: Sequence[Tensor]) -> None:
        """Update the rows that the coming step will change, int64[t] for each parameter."""
        for number, rows in enumerate(touched):
            self._settle(number, rows)

    def after_step(self, touched: Sequence[Tensor], decay: float) -> None:
        """Move the average towards the weights."""
        for average, weight in self._pairs:
            average.lerp_(weight.detach(), 1 - decay)
        self._decayed += math.log(decay)
        for number, rows in enumerate(touched):
            self._settle(number, rows)

    def settle(self) -> None:
        """Update every row, so that `model` is the average."""
        for number, (_, weight) in enumerate(self._rows):
            for start in range(0, len(weight), ROWS_AT_ONCE):
                self._settle(number, torch.arange(start, min(start + ROWS_AT_ONCE, len(weight))))

    def _settle(self, number: int, rows: Tensor) -> None:
        (average, weight), had = self._rows[number], self._had[number]
        left = torch.exp(self._decayed - had[rows]).float()[:, None]
        now = weight.detach()[rows]
        average[rows] = now + left * (average[rows] - now)
        had[rows] = self._decayed

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores."""
        return {"model": self.model.state_dict(), "decayed": self._decayed, "had": self._had}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self._decayed = state["decayed"]
        for had, own in zip(self._had, state["had"], strict=True):
            had.copy_(own)
