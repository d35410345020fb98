"""Measures of a recommender, with intervals over viewers and paired tests between systems."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap, rankdata

from vireo.server.arrays import BoolArray, Float32Array, Float64Array, Int64Array

IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.floating]

_CHUNK_SCORES = 20_000_000
"""Maximum scores in memory at a time."""
_Z_95 = 1.959964
"""Quantile of the normal distribution for a two-sided 95% interval."""
CONFIDENCE = 0.95
_RESAMPLES = 2_000
_PERMUTATIONS = 9_999
_BINS = 10
_BATCH_VALUES = 5_000_000
"""Maximum resampled values in memory at a time."""


def full_ranking(
    scores: Float32Array, watched: Sequence[Int64Array], targets: Int64Array
) -> Int64Array:
    """Return the 0-based rank of each target among the videos its viewer hasn't watched, int64[v].

    Ties count against the target, so that a constant score isn't rewarded.

    Args:
        scores: float32[v, n].
        watched: rows that each viewer has watched, the target not among them.
        targets: row held out for each viewer, int64[v].
    """
    viewers = np.arange(len(targets))
    own = scores[viewers, targets][:, None]
    # Comparisons with NaN are false: it must not pass for a good score.
    ahead = ~(scores < own)
    ahead[viewers, targets] = False
    for viewer, rows in enumerate(watched):
        ahead[viewer, rows] = False
    ranks: Int64Array = ahead.sum(axis=1, dtype=np.int64)
    return ranks


def viewer_chunks(viewers: int, videos: int) -> Iterator[slice]:
    """Yield slices of the viewers whose scores of every video fit in memory together."""
    size = max(1, _CHUNK_SCORES // max(videos, 1))
    for start in range(0, viewers, size):
        yield slice(start, start + size)


def hits(ranks: IntArray, k: int) -> Float64Array:
    """Return 1 for each viewer whose held-out video is among the k best, else 0, float64[v].

    Args:
        ranks: 0-based rank of each held-out video among the videos not watched, int[v].
        k: length of the slate.
    """
    return np.asarray(ranks < k, np.float64)


def gains(ranks: IntArray, k: int) -> Float64Array:
    """Return each viewer's NDCG@k: 1 / log2(rank + 2) among the k best, else 0, float64[v]."""
    return np.where(ranks < k, 1 / np.log2(np.minimum(ranks, k) + 2.0), 0.0)


def hit_rate(ranks: IntArray, k: int) -> float:
    """Return HR@k: the share of held-out videos among the k best.

    Recall@k is the same, since one video a viewer is held out.
    """
    return float(hits(ranks, k).mean()) if len(ranks) else 0.0


def ndcg(ranks: IntArray, k: int) -> float:
    """Return NDCG@k with one relevant video a viewer."""
    return float(gains(ranks, k).mean()) if len(ranks) else 0.0


def coverage(slates: IntArray, video_count: int) -> float:
    """Return the share of the catalogue in some slate; slates are int[v, k], -1 for none."""
    return len(np.unique(slates[slates >= 0])) / max(video_count, 1)


def intra_list_distance(slates: IntArray, vectors: FloatArray) -> float:
    """Return the mean cosine distance between two videos of a slate, over all slates.

    Args:
        slates: rows, int[v, k], all >= 0, k >= 2.
        vectors: video vectors, float[n, d].
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.maximum(norms, 1e-12)
    k = slates.shape[1]
    # The squared norm of the sum of the units is the sum of all pairs' cosines.
    together = np.square(units[slates].sum(axis=1)).sum(axis=1)
    alone = np.square(units[slates]).sum(axis=(1, 2))
    return float(np.mean(1 - (together - alone) / (k * (k - 1))))


def auc(scores: FloatArray, labels: BoolArray) -> float:
    """Return the probability that a positive scores above a negative, ties counting half.

    NaN if there are no positives or no negatives.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    rank_sum = float(rankdata(scores)[labels].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def expected_calibration_error(probabilities: FloatArray, labels: BoolArray) -> float:
    """Return the mean gap between predicted and observed rate over _BINS equal widths, by size."""
    if not len(labels):
        return 0.0
    place = np.minimum((np.asarray(probabilities) * _BINS).astype(np.int64), _BINS - 1)
    predicted = np.bincount(place, probabilities, minlength=_BINS)
    observed = np.bincount(place, labels.astype(np.float64), minlength=_BINS)
    return float(np.abs(predicted - observed).sum() / len(labels))


def predicted_over_observed(
    predicted: npt.NDArray[Any], observed: npt.NDArray[Any]
) -> tuple[float, float, float]:
    """Return predicted over observed events, 1 if calibrated overall, with its 95% interval.

    For rare events, such as watches of a candidate, most of the calibration error's equal-width
    bins are empty and it stays small even if every probability is twice the rate; this ratio
    doesn't. The interval over viewers is by linearisation (the delta method).

    Args:
        predicted: sum of each viewer's probabilities, float[v].
        observed: how many of these events happened, int[v].

    Returns:
        The ratio and the ends of its interval; all NaN if no event happened.
    """
    happened = float(observed.sum())
    if not happened:
        return (math.nan,) * 3
    value = float(predicted.sum()) / happened
    half = _Z_95 * float(np.sqrt(np.square(predicted - value * observed).sum())) / happened
    return value, value - half, value + half


def calibration_measures(
    task: str, probabilities: FloatArray, labels: BoolArray, viewers: IntArray
) -> dict[str, float]:
    """Return the calibration of a task's probabilities, by the names that reports use.

    Args:
        task: prefix of the names.
        probabilities: of m events, float[m].
        labels: whether each happened, bool[m].
        viewers: number of each event's viewer, from 0, int[m].

    Returns:
        `TASK_ece`, the expected calibration error; and unless no event happened,
        `TASK_predicted_over_observed` with the ends of its interval, `…_low` and `…_high`.
    """
    measures = {f"{task}_ece": expected_calibration_error(probabilities, labels)}
    value, low, high = predicted_over_observed(
        np.bincount(viewers, probabilities), np.bincount(viewers, labels)
    )
    if np.isfinite(value):
        name = f"{task}_predicted_over_observed"
        measures |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return measures


PER_VIEWER: Mapping[str, Callable[[Int64Array], Float64Array]] = {
    "hr_10": lambda ranks: hits(ranks, 10),
    "ndcg_10": lambda ranks: gains(ranks, 10),
    "recall_100": lambda ranks: hits(ranks, 100),
}
"""Measures that are means over viewers."""


def means(ranks: Int64Array) -> dict[str, float]:
    """Return the PER_VIEWER measures of 0-based ranks, 0 if there are none."""
    return {name: float(of(ranks).mean()) if len(ranks) else 0.0 for name, of in PER_VIEWER.items()}


def intervals(values: Float64Array) -> list[dict[str, float]]:
    """Return the mean of each column of float64[v, c], v > 0, with its bootstrap interval.

    Percentiles of the means of resampled viewers; samples are the same for every column and call.

    Returns:
        `value`, `low` and `high` of each column.
    """
    low = high = mean = values.mean(0)
    if len(values) > 1:
        low, high = bootstrap(
            (values,),
            np.mean,
            n_resamples=_RESAMPLES,
            batch=max(1, _BATCH_VALUES // values.size),
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    columns = zip(mean.tolist(), low.tolist(), high.tolist(), strict=True)
    return [{"value": value, "low": down, "high": up} for value, down, up in columns]


def paired_p(differences: Float64Array) -> list[float]:
    """Return the two-sided p that each column of viewers' differences has mean 0.

    A permutation test, which flips each viewer's sign at random, the same in every column.

    Args:
        differences: float64[v, c].
    """
    viewers = len(differences)
    random = np.random.default_rng(0)
    # Sums of the same numbers in another order differ in their last digits.
    observed = np.abs(differences.sum(0)) * (1 - 1e-9)
    as_far = np.zeros(differences.shape[1], np.int64)
    size = max(1, _BATCH_VALUES // max(viewers, 1))
    for start in range(0, _PERMUTATIONS, size):
        drawn = (min(size, _PERMUTATIONS - start), viewers)
        signs = random.integers(0, 2, drawn, np.int8) * 2.0 - 1.0
        as_far += (np.abs(signs @ differences) >= observed).sum(0)
    return [float(p) for p in (as_far + 1) / (_PERMUTATIONS + 1)]


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for multiple tests by Holm's step-down method."""
    corrected: dict[str, float] = {}
    floor = 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - place) * p_values[name]))
        corrected[name] = floor
    return corrected


def paired_tests(reference: Int64Array, others: Mapping[str, Int64Array]) -> dict[str, Any]:
    """Test the NDCG@10 of a reference against that of each other system.

    Args:
        reference: the reference's ranks, int64[v].
        others: each other system's ranks, int64[v], by name.

    Returns:
        For each other system `ndcg_10`, the reference's NDCG@10 minus the system's with its
        interval; `p`; and `p_holm`.
    """
    if not others:
        return {}
    leads = [gains(reference, 10) - gains(ranks, 10) for ranks in others.values()]
    differences = np.stack(leads, axis=1)
    p_values = dict(zip(others, paired_p(differences), strict=True))
    corrected = holm(p_values)
    return {
        name: {"ndcg_10": lead, "p": p_values[name], "p_holm": corrected[name]}
        for name, lead in zip(others, intervals(differences), strict=True)
    }


def compare(ranks: Mapping[str, Int64Array]) -> dict[str, Any]:
    """Return intervals of every system, and tests against "served", or "chain" if not served.

    Args:
        ranks: 0-based rank of each held-out video by system, int64[v].

    Returns:
        `reference`: the system tested against; `viewers`; `confidence`; `systems`: those of
        `with_intervals`; `tests`: those of `paired_tests`.
    """
    reference = "served" if "served" in ranks else "chain"
    return {
        "reference": reference,
        "viewers": len(ranks[reference]),
        "confidence": CONFIDENCE,
        "systems": with_intervals(ranks),
        "tests": paired_tests(
            ranks[reference], {name: each for name, each in ranks.items() if name != reference}
        ),
    }


def with_intervals(ranks: Mapping[str, Int64Array]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the PER_VIEWER measures of each system, each with `value`, `low` and `high`."""
    columns = [of(places) for places in ranks.values() for of in PER_VIEWER.values()]
    found = iter(intervals(np.stack(columns, axis=1)))
    return {name: {measure: next(found) for measure in PER_VIEWER} for name in ranks}
