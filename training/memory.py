"""Memory that long commands need, said before they start.

The coefficients are fitted to what `vireo bench memory` measures, and rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from vireo.training.data.dataset import DatasetInfo
from vireo.training.profile import Profile

_GB = 1e9


@dataclass(frozen=True)
class MemoryEstimate:
    """Approximate peak memory of a command."""

    needed: int
    """Bytes."""
    free: int
    """Available memory of this machine, bytes."""

    @staticmethod
    def of(needed: float) -> MemoryEstimate:
        """Return the estimate beside what is available now."""
        return MemoryEstimate(round(needed), psutil.virtual_memory().available)

    def __str__(self) -> str:
        line = (
            f"takes about {self.needed / _GB:.1f} GB of memory, {self.free / _GB:.1f} GB are free"
        )
        return line if self.needed <= self.free else f"{line}: close other programs first"


def import_memory(interactions: int, entities: int, attributes: int = 0) -> MemoryEstimate:
    """Estimate the memory of an import.

    Args:
        interactions: number of interactions.
        entities: rows of the other files: an upper bound for up to a million ids of each kind.
        attributes: declared attributes of all videos, counted per video.
    """
    return MemoryEstimate.of(500e6 + 100 * interactions + 500 * entities + 100 * attributes)


def features_memory(info: DatasetInfo) -> MemoryEstimate:
    """Estimate the memory of building a data set's features."""
    entities = info.videos + info.viewers
    return MemoryEstimate.of(900e6 + 100 * info.interactions + 150 * entities)


def training_memory(info: DatasetInfo, profile: Profile) -> MemoryEstimate:
    """Estimate the memory of training on a data set.

    Training's phases follow each other, and each frees what it took.
    """
    # Heavy, and of no use to other commands.
    from vireo.training.evaluation.baselines.item_knn import MAX_NEIGHBOURS, ItemKnnConfig
    from vireo.training.evaluation.run import MAX_SCORES, MAX_VIEWERS
    from vireo.training.retrieval.first_vectors import PAIRS, STEPS

    retrieval, ranking = profile.retrieval, profile.ranking
    videos, watches = info.videos, info.watches
    near = 60 * min(PAIRS, STEPS * watches) + 8 * videos * retrieval.dimension
    towers = 24 * videos * retrieval.dimension
    ease = 4 * videos**2 if videos <= retrieval.ease_limit else 1e9 + 1000 * videos
    ranking_set = 120 * ranking.candidates * min(info.viewers, ranking.viewers)
    tested = min(info.viewers, MAX_VIEWERS, MAX_SCORES // max(videos, 1))
    item_knn = 40 * min(ItemKnnConfig.neighbours * videos, MAX_NEIGHBOURS)
    evaluation = 100 * watches + max(90 * ranking.candidates * tested, item_knn)
    phases = (near, towers, ease, 200 * watches + ranking_set, evaluation)
    base = 1.6e9 + 300 * (videos + info.viewers)
    return MemoryEstimate.of(base + max(phases))
