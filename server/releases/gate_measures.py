"""The gate's measures: of a release, for any resample of viewers, and of two releases' likeness.

Some three of a thousand candidates are watched, so absolute differences between predicted and
observed rates are always small. Measures of probabilities are relative: the log loss, and the
ratio of predicted to observed events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import BoolArray, Float64Array, Int64Array
from vireo.server.signals import OUTCOMES, TASKS

FloatArray = npt.NDArray[np.floating]

_MIN_PROBABILITY = 1e-7
"""Lower bound of probabilities in the log loss, so that one event adds at most 16 nats."""
_LEARNED = 4 / 3
"""Times its twin's watches that a served fit may predict without counting as unlike it."""
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


@dataclass(frozen=True)
class Measured:
    """Measurements of one release on v test viewers, in viewer order."""

    held_out: str
    """Fingerprint of the held-out watches."""
    gains: Float64Array
    """NDCG@10 of each viewer, float64[v]."""
    hits: Float64Array
    """Whether the held-out video is in the top 100, float64[v]."""
    slates: Int64Array
    """Rows of the top ten, int64[v, 10], -1 for none."""
    best: Int64Array
    """Keys of the top 100, int64[v, 100], best first; the minimum of int64 for none."""
    videos: int
    """Size of the catalogue; for a release that replaces one with a smaller catalogue, of that."""
    predictions: Mapping[str, Predictions]
    """By task: `watch` of each candidate, OUTCOMES of each held-out video."""
    weights: Mapping[str, float]
    """Exponent of each task's probability in the score that orders a slate."""
    seconds: Float64Array
    """CPU time of viewer tower and ranker for some of the viewers, float64[t]."""


Statistic = Callable[[Measured, Int64Array], float]
"""Computes a measure with each viewer counted as often as the array says, int64[v]."""


@dataclass(frozen=True)
class Measure:
    """How a measure is computed and judged."""

    of: Statistic
    margin: float
    """Allowed loss."""
    seeds: float
    """Standard deviation between trainings that differ by their seed alone, besides the part that a
    bootstrap over viewers finds: rounded up from `bench/report/gate-ml-100k.json`."""
    relative: bool = True
    """Whether margin and deviation are shares of the current release's figure."""
    min_margin: float = 0.0
    """Minimum margin, in the measure's unit."""
    sign: int = 1
    """1 if higher is better, -1 if lower is."""
    lasting: bool = True
    """Whether figures are comparable across runs, so that the best one can be kept."""
    task: str = ""
    """Task whose probabilities are judged, which needs at least one event; empty for none."""


def _mean(field: str) -> Statistic:
    return lambda measured, times: float(times @ getattr(measured, field) / times.sum())


def _coverage(measured: Measured, times: Int64Array) -> float:
    # One extra entry, for the -1 of short slates.
    seen = np.zeros(measured.slates.max(initial=-1) + 2, bool)
    seen[measured.slates[times > 0]] = True
    return float(seen[:-1].sum() / measured.videos)


def _inference_p50(measured: Measured, times: Int64Array) -> float:
    return float(np.median(np.repeat(measured.seconds, times)))


def _of_task(task: str, *, lasting: bool) -> dict[str, Measure]:
    """Return the measures of one task's probabilities."""

    def judged(of: Callable[[Predictions, Int64Array], float]) -> Statistic:
        return lambda measured, times: of(measured.predictions[task], times)

    loss, factor = judged(Predictions.log_loss), judged(Predictions.miscalibration)
    return {
        f"{task}_log_loss": Measure(loss, 0.01, 0.003, sign=-1, lasting=lasting, task=task),
        # The factor by which predicted and observed events differ, for example 1.05.
        f"{task}_miscalibration": Measure(factor, 0.1, 0.01, relative=False, sign=-1, task=task),
    }


MEASURES = {
    "ndcg_10": Measure(_mean("gains"), 0.02, 0.015),
    "recall_100": Measure(_mean("hits"), 0.02, 0.005),
    # A share of the smaller catalogue, which differs by pair.
    "coverage_10": Measure(_coverage, 0.10, 0.015, lasting=False),
    # The log loss of watches covers candidates that both releases share, which differ by pair.
    **{
        name: measure
        for task in TASKS
        for name, measure in _of_task(task.name, lasting=task in OUTCOMES).items()
    },
    # Depends on the machine and its load. A larger profile may take longer.
    "inference_p50": Measure(_inference_p50, 0.25, 0.02, min_margin=0.010, sign=-1, lasting=False),
}
"""Measures by name, as in `Check.measure`."""


Alike = Callable[[Measured, Measured], float]
"""How alike two trainings answer the same queries, from 0 to 1, which is the same."""


def _overlap(count: int) -> Alike:
    return lambda *pair: float(in_both(*(each.best[:, :count] for each in pair))[0].mean())


def _ratio(total: Callable[[Measured], float]) -> Alike:
    def of(left: Measured, right: Measured) -> float:
        low, high = sorted(1 + total(each) for each in (left, right))
        return low / high

    return of


def _scale(twin: Measured, served: Measured) -> float:
    """Return the ratio of the watches that a served fit and its twin predict.

    Up to a third more counts as 1: the served fit has learned the answers of these queries.
    """
    few, many = (1 + float(each.predictions["watch"].predicted.sum()) for each in (twin, served))
    return min(many / few, 1.0, _LEARNED * few / many)


LIKENESS: Mapping[str, tuple[Alike, float]] = {
    "fit_overlap_10": (_overlap(10), 0.65),
    "fit_overlap_100": (_overlap(100), 0.7),
    "fit_coverage_10": (_ratio(lambda each: len(np.unique(each.best[:, :10]))), 0.8),
    "fit_scale": (_scale, 0.8),
}
"""Likeness of the served fit to its measured twin, and its bound: of their top 10, their top 100,
the number of videos in some top 10, and the number of watches that they predict. Bounds are some
four fifths of the least between seeds of ml-100k (`bench/report/gate-ml-100k.json`)."""
