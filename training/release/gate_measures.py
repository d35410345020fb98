"""What the gate measures of a release, and how it works that out for any sample of viewers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.release.predictions import Predictions

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What one release did for v test viewers, in their order."""

    release_id: str
    held_out: str
    """Fingerprint of the watches that it was asked for."""
    gains: Float64Array
    """What each adds to NDCG@10, float64[v]."""
    hits: Float64Array
    """Whether the held-out video was among the first hundred, float64[v]."""
    slates: Int64Array
    """Rows of the first ten, int64[v, 10], -1 for none."""
    videos: int
    """Size of its catalogue."""
    predictions: Mapping[str, Predictions]
    """By task: `watch` of each candidate, `like` of each held-out video."""
    seconds: Float64Array
    """Processor time of viewer tower and ranker for some of the viewers, float64[t]."""


Statistic = Callable[[Measured, Int64Array], float]
"""A measure of viewers who are each counted so many times."""


@dataclass(frozen=True)
class Measure:
    """How a measure is worked out and judged."""

    of: Statistic
    margin: str
    """Its field of Margins."""
    sign: int = 1
    """1 if more is better, -1 if less is."""
    relative: bool = True
    """Whether the margin is a share of what it is compared with."""
    lasting: bool = True
    """Whether the figure means the same in another run, and so can be kept as the best."""
    task: str = ""
    """The task whose probabilities it is of; without one event they can't be judged."""


def _ndcg(measured: Measured, times: Int64Array) -> float:
    return float(times @ measured.gains / times.sum())


def _recall(measured: Measured, times: Int64Array) -> float:
    return float(times @ measured.hits / times.sum())


def _coverage(measured: Measured, times: Int64Array) -> float:
    # One place more, for the -1 of slates that are short.
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
    # The log loss is that of candidates which both releases have: another pair has others.
    **_of_task("watch", lasting=False),
    **_of_task("like", lasting=True),
    # Of this machine at this moment.
    "inference_p50": Measure(_inference_p50, "inference_p50", -1, lasting=False),
}
"""By the name that a check has."""
