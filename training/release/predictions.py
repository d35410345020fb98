"""Quality of a release's probabilities, by measures that work at any base rate.

Some three of a thousand candidates are watched, so absolute differences between predicted and
observed rates are always small. The measures are relative: the log loss, and the ratio of
predicted to observed events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import BoolArray, Float64Array, Int64Array

FloatArray = npt.NDArray[np.floating]

_MIN_PROBABILITY = 1e-7
"""Lower bound of probabilities in the log loss, so that one event adds at most 16 nats."""
_PRIOR_EVENTS = 1.0
"""Added to predicted and observed events, so that few viewers without events have a ratio."""


@dataclass(frozen=True)
class Predictions:
    """Predictions and outcomes of one task, summed for each of v viewers."""

    predicted: Float64Array
    """Sum of the probabilities, float64[v]."""
    observed: Float64Array
    """Number of observed events, float64[v]."""
    losses: Float64Array
    """Sum of the log losses of the compared predictions, float64[v]."""
    compared: Float64Array
    """Number of compared predictions, float64[v]."""

    @staticmethod
    def of(
        probabilities: FloatArray, happened: BoolArray, real: BoolArray, compared: BoolArray
    ) -> Predictions:
        """Return the sums over each viewer's n predictions.

        Args:
            probabilities: float[v, n].
            happened: bool[v, n].
            real: which entries are predictions rather than padding, bool[v, n].
            compared: which of these the other release predicts too, bool[v, n].
        """
        exact = probabilities.astype(np.float64)
        bounded = np.clip(exact, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
        losses = -np.log(np.where(happened, bounded, 1 - bounded))
        return Predictions(
            predicted=np.where(real, exact, 0.0).sum(1),
            observed=(happened & real).sum(1).astype(np.float64),
            losses=np.where(compared, losses, 0.0).sum(1),
            compared=compared.sum(1).astype(np.float64),
        )

    def log_loss(self, times: Int64Array) -> float:
        """Return the mean log loss in nats, each viewer counted `times`, int64[v]."""
        return float(times @ self.losses) / max(float(times @ self.compared), 1.0)

    def miscalibration(self, times: Int64Array) -> float:
        """Return the factor by which predicted and observed events differ; 1 if they are equal.

        Predicting twice or half the observed events both give 2; `times` counts viewers, int64[v].
        """
        predicted = float(times @ self.predicted) + _PRIOR_EVENTS
        ratio = predicted / (float(times @ self.observed) + _PRIOR_EVENTS)
        return max(ratio, 1 / ratio)


def in_both(left: Int64Array, right: Int64Array) -> tuple[BoolArray, BoolArray]:
    """Return which entries of each viewer's two lists are also in the other list, bool like each.

    Both are keys of the viewers' candidates in a release, int64[v, n], unique in each row.
    """
    pairs = list(zip(left, right, strict=True))
    return (
        np.array([np.isin(mine, other) for mine, other in pairs], bool).reshape(left.shape),
        np.array([np.isin(other, mine) for mine, other in pairs], bool).reshape(right.shape),
    )
