"""EASE with recency, blended with what others watched soon after a viewer's last few watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from training.evaluation.baselines.ease import Ease
from training.evaluation.baselines.past import Float32Array, Grid, Int64Array, Past


@dataclass(frozen=True)
class MarkovConfig:
    """How EASE is fitted and read, and how the transitions count beside it."""

    weight: float = 6.0
    """Of the transitions beside EASE."""
    prior: float = 400.0
    """Watches that lead nowhere, added to those of each video: rare ones say less."""
    steps: tuple[float, ...] = (1.0, 0.6, 0.4)
    """Weight of what followed the last watch by one step, the one before by two, and so on."""
    half_life: float | None = 5.0
    """As in EaseConfig."""
    regularisation: float = 500.0
    """As in EaseConfig."""


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


class MarkovBlend:
    """Adds the scores of EASE and the rates of transition."""

    def __init__(self, past: Past, ease: Ease, config: MarkovConfig | None = None) -> None:
        """Count transitions; `ease` is the other half, fitted and read as the settings say."""
        config = config or MarkovConfig()
        self._ease = ease
        self._rates = [
            _transition_rates(past, step, config.prior) * (config.weight * weight)
            for step, weight in enumerate(config.steps, 1)
        ]

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """Return scores of every video for viewers who watched these rows, float32[v, n]."""
        scores = self._ease.scores(histories)
        for step, rates in enumerate(self._rates, 1):
            viewers = [place for place, rows in enumerate(histories) if len(rows) >= step]
            last = [histories[place][-step] for place in viewers]
            scores[viewers] += rates[last].toarray()
        return scores


def _transition_rates(past: Past, step: int, prior: float) -> sparse.csr_array:
    """Return how often a watch of each video was followed by each other, sparse float32[n, n].

    Args:
        past: the histories.
        step: how many watches later.
        prior: see MarkovConfig.
    """
    none = np.empty(0, np.int64)
    before = np.concatenate([none, *(rows[:-step] for rows in past.histories)])
    after = np.concatenate([none, *(rows[step:] for rows in past.histories)])
    share = 1 / (np.bincount(before, minlength=past.videos) + prior)
    # The same pair more than once: it adds up.
    pairs = (share[before].astype(np.float32), (before, after))
    rates: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        pairs, shape=(past.videos, past.videos)
    )
    return rates
