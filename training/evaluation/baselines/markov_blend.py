"""EASE with recency, blended with what others watched soon after a viewer's last few watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from vireo.server.arrays import Float32Array, Int64Array
from vireo.training.evaluation.baselines.past import Baseline, Grid, Past

GRID: Grid = {
    "weight": (1.0, 2.0, 4.0, 6.0, 9.0, 13.0),
    "prior": (100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0),
    "steps": (
        (1.0,),
        (1.0, 0.5),
        (1.0, 0.6, 0.4),
        (1.0, 0.8, 0.6),
        (1.0, 0.7, 0.5, 0.4, 0.3),
        (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2),
    ),
    "half_life": (10.0, 5.0, 3.0, 2.0),
    "regularisation": (100.0, 300.0, 500.0, 1000.0, 2000.0),
}


@dataclass(frozen=True)
class MarkovConfig:
    """Settings of EASE, and how transitions are weighted beside it."""

    weight: float = 6.0
    """Weight of the transitions relative to EASE."""
    prior: float = 400.0
    """Watches without a successor added to each video's own, which damps rare videos."""
    steps: tuple[float, ...] = (1.0, 0.6, 0.4)
    """Weight of what came one step after the last watch, two steps after the one before, …"""
    half_life: float | None = 5.0
    """See EaseConfig."""
    regularisation: float = 500.0
    """See EaseConfig."""


class MarkovBlend:
    """Adds transition rates to the scores of a fitted EASE."""

    def __init__(self, past: Past, ease: Baseline, config: MarkovConfig) -> None:
        self._ease = ease
        self._rates = [
            _transition_rates(past, step, config.prior) * (config.weight * weight)
            for step, weight in enumerate(config.steps, 1)
        ]

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """See Baseline."""
        scores = self._ease.scores(histories)
        for step, rates in enumerate(self._rates, 1):
            viewers = [place for place, rows in enumerate(histories) if len(rows) >= step]
            last = [histories[place][-step] for place in viewers]
            scores[viewers] += rates[last].toarray()
        return scores


def _transition_rates(past: Past, step: int, prior: float) -> sparse.csr_array:
    """Return the rate of each video `step` watches after each other, sparse float32[n, n]."""
    none = np.empty(0, np.int64)
    before = np.concatenate([none, *(rows[:-step] for rows in past.histories)])
    after = np.concatenate([none, *(rows[step:] for rows in past.histories)])
    share = 1 / (np.bincount(before, minlength=past.videos) + prior)
    # The entries of repeated pairs are summed.
    pairs = (share[before].astype(np.float32), (before, after))
    rates: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        pairs, shape=(past.videos, past.videos)
    )
    return rates
