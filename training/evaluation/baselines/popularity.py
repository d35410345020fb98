"""The most watched videos, for everyone alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation.baselines.past import Float32Array, Grid, Int64Array, Past, history_matrix


@dataclass(frozen=True)
class PopularityConfig:
    """How watches count."""

    half_life: float | None = None
    """Watches back in its viewer's history at which a watch counts half; None: all alike."""


GRID: Grid = {"half_life": (None, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.5, 0.25)}


class Popularity:
    """How often each video was watched."""

    def __init__(self, past: Past, config: PopularityConfig | None = None) -> None:
        """Count the watches."""
        config = config or PopularityConfig()
        matrix = history_matrix(past.histories, past.videos, config.half_life)
        self._counts = np.ones(len(past.histories), np.float32) @ matrix

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """Return the same scores for every viewer, float32[v, n]."""
        return np.broadcast_to(self._counts, (len(histories), len(self._counts)))
