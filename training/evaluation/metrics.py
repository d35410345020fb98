"""Measures of a recommender: from ranks, slates and predicted probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]

_Z_95 = 1.959964
"""Quantile of the normal distribution for a two-sided interval at 95%."""


def hits(ranks: IntArray, k: int) -> FloatArray:
    """Return 1 for each viewer whose held-out video is among the k best, else 0, float64[v].

    Args:
        ranks: 0-based rank of each held-out video among the videos not watched, int[v].
        k: length of the slate.
    """
    return np.asarray(ranks < k, np.float64)


def gains(ranks: IntArray, k: int) -> FloatArray:
    """Return what each viewer adds to NDCG@k: 1 / log2(rank + 2) among the k best, else 0."""
    return np.where(ranks < k, 1 / np.log2(np.minimum(ranks, k) + 2.0), 0.0)


def hit_rate(ranks: IntArray, k: int) -> float:
    """Return HR@k: the share of held-out videos (one a viewer) among the k best."""
    return float(hits(ranks, k).mean()) if len(ranks) else 0.0


recall = hit_rate
"""Recall@k is the same number if one video a viewer is held out, as here."""


def ndcg(ranks: IntArray, k: int) -> float:
    """Return NDCG@k with one relevant video a viewer."""
    return float(gains(ranks, k).mean()) if len(ranks) else 0.0


def coverage(slates: IntArray, video_count: int) -> float:
    """Share of the catalogue that is in some slate; slates are rows, int[v, k], -1 for none."""
    if not video_count:
        return 0.0
    return len(np.unique(slates[slates >= 0])) / video_count


def intra_list_distance(slates: IntArray, vectors: npt.NDArray[np.floating]) -> float:
    """Mean cosine distance between two videos of a slate, over all slates: its diversity.

    Args:
        slates: rows, int[v, k], all >= 0, k >= 2.
        vectors: of the catalogue, float[n, d].
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.maximum(norms, 1e-12)
    k = slates.shape[1]
    # The sum of all pairs' cosines is the squared norm of the sum of the units.
    together = np.square(units[slates].sum(axis=1)).sum(axis=1)
    alone = np.square(units[slates]).sum(axis=(1, 2))
    return float(np.mean(1 - (together - alone) / (k * (k - 1))))


def auc(scores: npt.NDArray[np.floating], labels: npt.NDArray[np.bool_]) -> float:
    """Chance that a positive scores above a negative, ties counting half; nan without both."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[place[labels]].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def expected_calibration_error(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.bool_], bins: int = 10
) -> float:
    """Mean gap between predicted and observed rate over equal-width bins, by their size."""
    if not len(labels):
        return 0.0
    place = np.minimum((np.asarray(probabilities) * bins).astype(np.int64), bins - 1)
    predicted = np.bincount(place, probabilities, minlength=bins)
    observed = np.bincount(place, labels.astype(np.float64), minlength=bins)
    return float(np.abs(predicted - observed).sum() / len(labels))


@dataclass(frozen=True)
class Ratio:
    """A ratio of two sums with its 95% interval; all nan if the lower sum is 0."""

    value: float
    low: float
    high: float


def predicted_over_observed(predicted: npt.NDArray[Any], observed: npt.NDArray[Any]) -> Ratio:
    """Return how many events were predicted for each that happened: 1 if calibrated overall.

    Events as rare as watches of a candidate hide from the calibration error, whose bins of equal
    width all but one are empty; probabilities that are wrong by half show here.

    Args:
        predicted: sum of the probabilities of each viewer, float[v].
        observed: how many of these events happened, int[v].

    Returns:
        The ratio, with the interval over viewers that linearisation (the delta method) gives.
    """
    happened = float(observed.sum())
    if not happened:
        return Ratio(*[float("nan")] * 3)
    value = float(predicted.sum()) / happened
    half = _Z_95 * float(np.sqrt(np.square(predicted - value * observed).sum())) / happened
    return Ratio(value, value - half, value + half)


def calibration_measures(
    task: str,
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.bool_],
    viewers: IntArray,
) -> dict[str, float]:
    """Return how well a task's probabilities are calibrated, by name, as reports have it.

    Args:
        task: first part of each name.
        probabilities: of m events, float[m].
        labels: whether each happened, bool[m].
        viewers: number of each event's viewer, from 0, int[m].

    Returns:
        `TASK_ece`, the expected calibration error; and unless no event happened,
        `TASK_predicted_over_observed` with the ends of its interval, `…_low` and `…_high`.
    """
    measures = {f"{task}_ece": expected_calibration_error(probabilities, labels)}
    ratio = predicted_over_observed(
        np.bincount(viewers, probabilities), np.bincount(viewers, labels)
    )
    if np.isfinite(ratio.value):
        name = f"{task}_predicted_over_observed"
        measures |= {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
    return measures
