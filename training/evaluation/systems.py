"""Ways to recommend, each ranked in full over the test viewers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from training.evaluation.baselines.past import Past
from training.evaluation.baselines.registry import QUICK, Config, fitted
from training.evaluation.chain import SLATE, TestViewers, list_ranks
from training.evaluation.full_ranking import full_ranking
from training.evaluation.metrics import coverage, hit_rate, ndcg, recall

SYSTEMS = (
    "popularity",
    "item_knn",
    "ease",
    "ease_recency",
    "ials",
    "markov_blend",
    "two_tower",
    "chain",
    "served",
)
"""Every system that an evaluation may have, in the order of reports."""
_CHUNK_SCORES = 20_000_000
"""Scores held at a time."""

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SystemReport:
    """How one way to recommend does on the held-out watches."""

    ranks: Int64Array
    """0-based rank of each held-out video, int64[v]."""
    slates: Int64Array
    """Rows of the SLATE best, int64[v, SLATE], -1 for none."""

    def measures(self, video_count: int) -> dict[str, float]:
        """HR@10, NDCG@10, Recall@50, Recall@100, and coverage of the first ten places."""
        return {
            "hr_10": hit_rate(self.ranks, 10),
            "ndcg_10": ndcg(self.ranks, 10),
            "recall_50": recall(self.ranks, 50),
            "recall_100": recall(self.ranks, 100),
            "coverage_10": coverage(self.slates[:, :10], video_count),
        }


def of_scores(scores: Float32Array, viewers: TestViewers) -> SystemReport:
    """A system that scores every video: ranked in full over what the viewer hasn't watched."""
    ranks = full_ranking(scores, viewers.watched, viewers.targets)
    return SystemReport(ranks, best_unwatched(scores, viewers.watched))


def of_chunks(
    scores: Callable[[slice], Float32Array], viewers: TestViewers, videos: int
) -> SystemReport:
    """Like `of_scores`, of scores made for some viewers at a time.

    Args:
        scores: the scores of these viewers, float32[some, n].
        viewers: whom to rank for.
        videos: size n of the catalogue.
    """
    size = max(1, _CHUNK_SCORES // max(videos, 1))
    ranks = np.empty(len(viewers.ids), np.int64)
    slates = np.empty((len(viewers.ids), SLATE), np.int64)
    for start in range(0, len(viewers.ids), size):
        part = slice(start, start + size)
        own, watched = scores(part), viewers.watched[part]
        ranks[part] = full_ranking(own, watched, viewers.targets[part])
        slates[part] = best_unwatched(own, watched)
    return SystemReport(ranks, slates)


def of_lists(lists: Int64Array, viewers: TestViewers) -> SystemReport:
    """A system that answers lists, int64[v, at least SLATE]: a video not in it is a miss."""
    return SystemReport(list_ranks(lists, viewers.targets), lists[:, :SLATE])


def best_unwatched(scores: Float32Array, watched: Sequence[Int64Array]) -> Int64Array:
    """Rows of the SLATE best that each viewer hasn't watched, int64[v, SLATE], -1 for none."""
    slates = np.full((len(scores), SLATE), -1, np.int64)
    for place, rows in enumerate(watched):
        own = np.array(scores[place])
        own[rows] = -np.inf
        # Sorting all takes several times as long as finding the last score that counts.
        least = np.partition(own, -SLATE)[-SLATE] if len(own) > SLATE else -np.inf
        reached = np.flatnonzero((own >= least) & np.isfinite(own))
        best = reached[np.argsort(-own[reached], kind="stable")][:SLATE]
        slates[place, : len(best)] = best
    return slates


def baseline_systems(
    past: Past,
    viewers: TestViewers,
    names: Sequence[str] = QUICK,
    fitting: Callable[[str], None] = lambda _: None,
    settings: Mapping[str, Config] = MappingProxyType({}),
) -> dict[str, SystemReport]:
    """Measure baselines on the test viewers; the arguments besides `viewers` are `fitted`'s."""
    return {
        name: of_chunks(
            lambda part, model=baseline: model.scores(viewers.watched[part]),  # type: ignore[misc]
            viewers,
            past.videos,
        )
        for name, baseline in fitted(names, past, fitting, settings)
    }
