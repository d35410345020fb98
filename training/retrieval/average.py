"""The moving average of the weights, which costs nothing for rows that don't change."""

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

    Rows of a large embedding are brought up to date when they change and when the average is
    looked at: while a row stays as it is, k steps move its average towards it by one power of
    the decay. So it is the same average, up to rounding, as if every row were moved every step.
    """

    def __init__(self, model: TwoTower, rows: Sequence[nn.Parameter]) -> None:
        """Takes the model, and those of its parameters that change row by row."""
        # Buffers are what is known of the catalogue: both models may have the same.
        shared = {id(buffer): buffer for buffer in model.buffers()}
        self.model = deepcopy(model, shared).requires_grad_(False)
        """The averages; those of rows as of `settle`."""
        self._pairs: list[tuple[Tensor, nn.Parameter]] = []
        self._rows: list[tuple[Tensor, nn.Parameter]] = []
        for average, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            by_row = any(weight is parameter for parameter in rows)
            (self._rows if by_row else self._pairs).append((average, weight))
        # Both in logarithms: all steps' decays so far, and of these, what a row has had.
        self._decayed = 0.0
        self._had = [torch.zeros(len(weight), dtype=torch.float64) for _, weight in self._rows]

    def before_step(self, touched: Sequence[Tensor]) -> None:
        """Brings rows up to date that the coming step changes, int64[t] for each parameter."""
        for number, rows in enumerate(touched):
            self._settle(number, rows)

    def after_step(self, touched: Sequence[Tensor], decay: float) -> None:
        """Moves the average towards the weights."""
        for average, weight in self._pairs:
            average.lerp_(weight.detach(), 1 - decay)
        self._decayed += math.log(decay)
        for number, rows in enumerate(touched):
            self._settle(number, rows)

    def settle(self) -> None:
        """Brings every row up to date, so that `model` is the average."""
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
        """What `load_state_dict` needs."""
        return {"model": self.model.state_dict(), "decayed": self._decayed, "had": self._had}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self._decayed = state["decayed"]
        for had, own in zip(self._had, state["had"], strict=True):
            had.copy_(own)
