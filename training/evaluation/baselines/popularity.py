"""The most watched videos, the same for everyone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.training.evaluation.baselines.past import Grid, Past, history_matrix

GRID: Grid = {"half_life": (None, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.5, 0.25)}


@dataclass(frozen=True)
class PopularityConfig:
    """How watches are counted."""

    half_life: float | None = None
    """Number of the viewer's later watches that halve a watch's weight; None: all weigh 1."""


class Popularity:
    """Scores videos by how often they were watched."""

    def __init__(self, past: Past, config: PopularityConfig | None = None) -> None:
        half_life = config.half_life if config else None
        matrix = history_matrix(past.histories, past.videos, half_life)
        self._counts = np.ones(len(past.histories), np.float32) @ matrix

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """See Baseline."""
        return np.broadcast_to(self._counts, (len(histories), len(self._counts)))
