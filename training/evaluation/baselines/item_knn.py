"""Item-to-item nearest neighbours by the cosine of who watched them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from implicit.nearest_neighbours import ItemItemRecommender
from scipy import sparse

from vireo.server.arrays import Float32Array, Int64Array
from vireo.training.evaluation.baselines.past import Grid, Past, history_matrix

GRID: Grid = {
    "neighbours": (20, 50, 100, 200, 500, 2000),
    "half_life": (None, 10.0, 5.0, 3.0, 2.0, 1.0, 0.5),
}

MAX_NEIGHBOURS = 20_000_000
"""Maximum neighbours of all videos together, some 40 bytes each while they are looked for."""


@dataclass(frozen=True)
class ItemKnnConfig:
    """How many neighbours a video has, and how watches are weighted."""

    neighbours: int = 50
    half_life: float | None = 5.0
    """Number of later watches that halve a watch's weight; None: all weigh the same."""


class ItemKnn:
    """Sums a video's cosines with the watched videos that it is a neighbour of."""

    def __init__(self, past: Past, config: ItemKnnConfig) -> None:
        self._half_life = config.half_life
        lengths = np.sqrt(np.maximum(past.counts, 1))
        scale = sparse.diags_array(1 / lengths)  # type: ignore[no-untyped-call]
        units = sparse.csr_matrix(past.matrix @ scale)  # type: ignore[no-untyped-call]
        units.indices, units.indptr = units.indices.astype(np.int32), units.indptr.astype(np.int32)
        neighbours = min(config.neighbours, max(1, MAX_NEIGHBOURS // past.videos))
        # Each video is its own nearest.
        model = ItemItemRecommender(K=neighbours + 1, num_threads=1)
        model.fit(units, show_progress=False)
        self._cosines = sparse.csr_array(  # type: ignore[no-untyped-call]
            model.similarity, dtype=np.float32
        )

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """See Baseline."""
        matrix = history_matrix(histories, self._cosines.shape[0], self._half_life)
        return np.asarray((matrix @ self._cosines).toarray(), np.float32)
