"""The gate's measures of a release, computed for any resample of viewers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from server.arrays import Float64Array, Int64Array
from server.signals import OUTCOMES, TASKS
from training.release.predictions import Predictions


@dataclass(frozen=True)
class Measured:
    """Measurements of one release on v test viewers, in viewer order."""

    release_id: str
    held_out: str
    """Fingerprint of the held-out watches."""
    gains: Float64Array
    """NDCG@10 of each viewer, float64[v]."""
    hits: Float64Array
    """Whether the held-out video is in the top 100, float64[v]."""
    slates: Int64Array
    """Rows of the top ten, int64[v, 10], -1 for none."""
    videos: int
    """Size of the catalogue."""
    predictions: Mapping[str, Predictions]
    """By task: `watch` of each candidate, OUTCOMES of each held-out video."""
    seconds: Float64Array
    """CPU time of viewer tower and ranker for some of the viewers, float64[t]."""


Statistic = Callable[[Measured, Int64Array], float]
"""Computes a measure with each viewer counted as often as the array says, int64[v]."""


@dataclass(frozen=True)
class Measure:
    """How a measure is computed and judged."""

    of: Statistic
    margin: str
    """Field of Margins that applies."""
    sign: int = 1
    """1 if higher is better, -1 if lower is."""
    relative: bool = True
    """Whether the margin is relative to the reference."""
    lasting: bool = True
    """Whether figures are comparable across runs, so that the best one can be kept."""
    task: str = ""
    """Task whose probabilities are judged, which needs at least one event; empty for none."""


def _ndcg(measured: Measured, times: Int64Array) -> float:
    return float(times @ measured.gains / times.sum())


def _recall(measured: Measured, times: Int64Array) -> float:
    return float(times @ measured.hits / times.sum())


def _coverage(measured: Measured, times: Int64Array) -> float:
    # One extra entry, for the -1 of short slates.
    seen = np.zeros(measured.videos + 1, bool)
    seen[measured.slates[times > 0]] = True
    return float(seen[:-1].sum() / measured.videos)


def _inference_p50(measured: Measured, times: Int64Array) -> float:
    return float(np.median(np.repeat(measured.seconds, times)))


def _of_task(task: str, *, lasting: bool) -> dict[str, Measure]:
    """Return the measures of one task's probabilities."""

    def log_loss(measured: Measured, times: Int64Array) -> float:
        return measured.predictions[task].log_loss(times)

    def miscalibration(measured: Measured, times: Int64Array) -> float:
        return measured.predictions[task].miscalibration(times)

    return {
        f"{task}_log_loss": Measure(log_loss, "log_loss", -1, lasting=lasting, task=task),
        f"{task}_miscalibration": Measure(
            miscalibration, "miscalibration", -1, relative=False, task=task
        ),
    }


MEASURES = {
    "ndcg_10": Measure(_ndcg, "ndcg_10"),
    "recall_100": Measure(_recall, "recall_100"),
    "coverage_10": Measure(_coverage, "coverage_10"),
    # The log loss of watches covers candidates that both releases share, which differ by pair.
    **{
        name: measure
        for task in TASKS
        for name, measure in _of_task(task.name, lasting=task in OUTCOMES).items()
    },
    # Depends on the machine and its load.
    "inference_p50": Measure(_inference_p50, "inference_p50", -1, lasting=False),
}
"""Measures by name, as in `Check.measure`."""
