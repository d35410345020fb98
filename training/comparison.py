"""Statistical confidence: intervals over viewers, and paired tests between systems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from vireo.server.arrays import Float64Array, Int64Array
from vireo.training.metrics import gains, hits

CONFIDENCE = 0.95
_RESAMPLES = 2_000
_PERMUTATIONS = 9_999
_BATCH_VALUES = 5_000_000
"""Maximum resampled values in memory at a time."""

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
    viewers = len(values)
    random = np.random.default_rng(0)
    found = []
    for size in _batches(_RESAMPLES, viewers):
        drawn = random.integers(0, viewers, (size, viewers))
        drawn += np.arange(size)[:, None] * viewers
        times = np.bincount(drawn.ravel(), minlength=size * viewers).reshape(size, viewers)
        found.append(times @ values / viewers)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail], axis=0)
    columns = zip(values.mean(0).tolist(), low.tolist(), high.tolist(), strict=True)
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
    for size in _batches(_PERMUTATIONS, viewers):
        signs = random.integers(0, 2, (size, viewers), np.int8) * 2.0 - 1.0
        as_far += (np.abs(signs @ differences) >= observed).sum(0)
    return [float(p) for p in (as_far + 1) / (_PERMUTATIONS + 1)]


def _batches(times: int, viewers: int) -> Iterator[int]:
    size = max(1, _BATCH_VALUES // max(viewers, 1))
    for start in range(0, times, size):
        yield min(size, times - start)


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
