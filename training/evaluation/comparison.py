"""How sure the measures are: intervals over viewers, and paired tests between systems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.metrics import gains, hits

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
_RESAMPLES = 2_000
_PERMUTATIONS = 9_999
_BATCH_VALUES = 5_000_000
"""Resampled values held at a time."""


PER_VIEWER: Mapping[str, Callable[[Int64Array], Float64Array]] = {
    "hr_10": lambda ranks: hits(ranks, 10),
    "ndcg_10": lambda ranks: gains(ranks, 10),
    "recall_100": lambda ranks: hits(ranks, 100),
}
"""Measures that are means over viewers."""


def intervals(values: Float64Array) -> list[dict[str, float]]:
    """Means with their bootstrap intervals over viewers: `value`, `low`, `high` of each column.

    Percentiles of the means of resampled viewers: the same samples for every column, and the
    same seed every time.

    Args:
        values: float64[v, c], v above 0.
    """
    viewers = len(values)
    random = np.random.default_rng(0)
    means = []
    for size in _batches(_RESAMPLES, viewers):
        drawn = random.integers(0, viewers, (size, viewers))
        drawn += np.arange(size)[:, None] * viewers
        times = np.bincount(drawn.ravel(), minlength=size * viewers).reshape(size, viewers)
        means.append(times @ values / viewers)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    columns = zip(values.mean(0).tolist(), low.tolist(), high.tolist(), strict=True)
    return [{"value": value, "low": down, "high": up} for value, down, up in columns]


def paired_p(differences: Float64Array) -> list[float]:
    """Two-sided p that the viewers' differences of each column are 0 in the mean.

    A permutation test: each viewer's sign is flipped at random, the same in every column.

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
    """Sizes of batches that make `times` together, none of too many values."""
    most = max(1, _BATCH_VALUES // max(viewers, 1))
    for start in range(0, times, most):
        yield min(most, times - start)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values corrected for being several, by Holm's step-down method."""
    corrected: dict[str, float] = {}
    least = 0.0
    for place, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[name]))
        corrected[name] = least
    return corrected


def compare(ranks: Mapping[str, Int64Array]) -> dict[str, Any]:
    """Intervals of every system, and a test of each against the one that Vireo serves.

    Args:
        ranks: 0-based rank of each held-out video by system, int64[v], "served" or "chain"
            among them.

    Returns:
        `reference`: the system tested against; `viewers`, `confidence`; `systems`: measure by
        name, each with `value`, `low` and `high`; `tests`: for each other system, `ndcg_10`:
        the reference's NDCG@10 less the system's, with its interval, `p` and `p_holm`.
    """
    reference = "served" if "served" in ranks else "chain"
    ours = gains(ranks[reference], 10)
    others = [name for name in ranks if name != reference]
    differences = np.stack([ours - gains(ranks[name], 10) for name in others], axis=1)
    p_values = dict(zip(others, paired_p(differences), strict=True))
    corrected = holm(p_values)
    return {
        "reference": reference,
        "viewers": len(ours),
        "confidence": CONFIDENCE,
        "systems": with_intervals(ranks),
        "tests": {
            name: {"ndcg_10": lead, "p": p_values[name], "p_holm": corrected[name]}
            for name, lead in zip(others, intervals(differences), strict=True)
        },
    }


def with_intervals(ranks: Mapping[str, Int64Array]) -> dict[str, dict[str, dict[str, float]]]:
    """The PER_VIEWER measures of each system, each with `value`, `low` and `high`."""
    columns = [of(places) for places in ranks.values() for of in PER_VIEWER.values()]
    found = iter(intervals(np.stack(columns, axis=1)))
    return {name: {measure: next(found) for measure in PER_VIEWER} for name in ranks}
