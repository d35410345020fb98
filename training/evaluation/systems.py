"""Recommenders under test, each ranked in full over the test viewers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.training.evaluation.baselines.past import Past
from vireo.training.evaluation.baselines.registry import BASELINES, QUICK, Config, fitted
from vireo.training.evaluation.chain import SLATE, TestViewers, list_ranks
from vireo.training.evaluation.full_ranking import full_ranking, viewer_chunks
from vireo.training.evaluation.metrics import coverage, hit_rate, ndcg, recall

SYSTEMS = (*BASELINES, "two_tower", "chain", "served")
"""Every system that an evaluation may have, in the order of reports."""


@dataclass(frozen=True)
class SystemReport:
    """A system's results on the held-out watches."""

    ranks: Int64Array
    """0-based rank of each held-out video, int64[v]."""
    slates: Int64Array
    """Rows of the SLATE best, int64[v, SLATE], -1 for none."""

    def measures(self, video_count: int) -> dict[str, float]:
        """Return HR@10, NDCG@10, Recall@50, Recall@100, and coverage of the first ten places."""
        return {
            "hr_10": hit_rate(self.ranks, 10),
            "ndcg_10": ndcg(self.ranks, 10),
            "recall_50": recall(self.ranks, 50),
            "recall_100": recall(self.ranks, 100),
            "coverage_10": coverage(self.slates[:, :10], video_count),
        }


def of_chunks(
    scores: Callable[[slice], Float32Array], viewers: TestViewers, videos: int
) -> SystemReport:
    """Return the results of a system that scores every video, ranked over the unwatched ones.

    Those that weren't published by then rank last, and are in no slate.

    Args:
        scores: returns the scores of a slice of the viewers, float32[some, n].
        viewers: the test viewers.
        videos: size n of the catalogue.
    """
    ranks = np.empty(len(viewers.ids), np.int64)
    slates = np.empty((len(viewers.ids), SLATE), np.int64)
    for part in viewer_chunks(len(viewers.ids), videos):
        own, watched = scores(part), viewers.watched[part]
        if (later := viewers.unpublished(part)) is not None:
            own = np.where(later, -np.inf, own)
        ranks[part] = full_ranking(own, watched, viewers.targets[part])
        slates[part] = best_unwatched(own, watched)
    return SystemReport(ranks, slates)


def of_lists(lists: Int64Array, viewers: TestViewers) -> SystemReport:
    """Return the results of a system that returns lists, int64[v, at least SLATE].

    A video that isn't in its list is a miss.
    """
    return SystemReport(list_ranks(lists, viewers.targets), lists[:, :SLATE])


def best_unwatched(scores: Float32Array, watched: Sequence[Int64Array]) -> Int64Array:
    """Return rows of each viewer's SLATE best unwatched videos, int64[v, SLATE], -1 for none."""
    slates = np.full((len(scores), SLATE), -1, np.int64)
    for place, rows in enumerate(watched):
        own = np.array(scores[place])
        own[rows] = -np.inf
        # Sorting all takes several times as long as finding the last score that counts.
        cutoff = np.partition(own, -SLATE)[-SLATE] if len(own) > SLATE else -np.inf
        reached = np.flatnonzero((own >= cutoff) & np.isfinite(own))
        best = reached[np.argsort(-own[reached], kind="stable")][:SLATE]
        slates[place, : len(best)] = best
    return slates


def baseline_systems(
    past: Past,
    viewers: TestViewers,
    names: Sequence[str] = QUICK,
    settings: Mapping[str, Config] = MappingProxyType({}),
) -> dict[str, SystemReport]:
    """Measure the baselines that are `fitted` with these arguments on the test viewers."""
    return {
        name: of_chunks(
            lambda part, model=baseline: model.scores(viewers.watched[part]),  # type: ignore[misc]
            viewers,
            past.videos,
        )
        for name, baseline in fitted(names, past, settings)
    }
