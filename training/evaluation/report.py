"""The report of a run: every measure, of the baselines too, as JSON and as plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.evaluation.baselines import Ease, full_ranking, popularity_scores
from training.evaluation.chain import SLATE, ChainAnswers, TestViewers, list_ranks
from training.evaluation.metrics import (
    auc,
    coverage,
    expected_calibration_error,
    hit_rate,
    ndcg,
    recall,
)

METRICS = "metrics.json"
EASE_LIMIT = 20_000
"""EASE inverts a matrix of the catalogue's square: larger catalogues go without it."""

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


def of_lists(lists: Int64Array, viewers: TestViewers) -> SystemReport:
    """A system that answers lists, int64[v, at least SLATE]: a video not in it is a miss."""
    return SystemReport(list_ranks(lists, viewers.targets), lists[:, :SLATE])


def best_unwatched(scores: Float32Array, watched: Sequence[Int64Array]) -> Int64Array:
    """Rows of the SLATE best that each viewer hasn't watched, int64[v, SLATE], -1 for none."""
    slates = np.full((len(scores), SLATE), -1, np.int64)
    for place, rows in enumerate(watched):
        own = scores[place].astype(np.float64)
        own[rows] = -np.inf
        best = np.argsort(-own, kind="stable")[:SLATE]
        best = best[np.isfinite(own[best])]
        slates[place, : len(best)] = best
    return slates


def baselines(
    past: Sequence[Int64Array], video_count: int, viewers: TestViewers
) -> dict[str, SystemReport]:
    """Popularity and EASE on the same viewers.

    Args:
        past: rows that each viewer of the data set (not of the test alone) watched before the
            test: what the baselines are fitted on.
        video_count: size of the catalogue.
        viewers: whom to rank for.
    """
    counts = np.bincount(np.concatenate([np.empty(0, np.int64), *past]), minlength=video_count)
    systems = {"popularity": of_scores(popularity_scores(counts, len(viewers.ids)), viewers)}
    if video_count <= EASE_LIMIT:
        systems["ease"] = of_scores(Ease(past, video_count).scores(viewers.watched), viewers)
    return systems


def chain_systems(answers: ChainAnswers, viewers: TestViewers) -> dict[str, SystemReport]:
    """The two-tower model alone, and the whole chain."""
    return {
        "two_tower": of_scores(answers.tower, viewers),
        "chain": of_lists(answers.ranked, viewers),
    }


def ranker_measures(answers: ChainAnswers, viewers: TestViewers) -> dict[str, float]:
    """AUC and calibration error of each task, and how many targets retrieval found.

    The AUC of a task whose labels are all alike isn't defined, and left out.
    """
    real = answers.ranked >= 0
    hits = (answers.ranked == viewers.targets[:, None])[real]
    watch = answers.watch[real]
    found = (answers.candidates == viewers.targets[:, None]).any(1)
    measures = {
        "candidate_recall": float(found.mean()),
        "watch_auc": auc(watch, hits),
        "watch_ece": expected_calibration_error(watch, hits),
        "like_auc": auc(answers.target_like, viewers.liked),
        "like_ece": expected_calibration_error(answers.target_like, viewers.liked),
    }
    return {name: value for name, value in measures.items() if np.isfinite(value)}


def write_metrics(folder: Path, metrics: Mapping[str, object]) -> None:
    """Writes METRICS into `folder`, replacing the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{METRICS}.partial"
    partial.write_text(json.dumps(metrics, indent=2) + "\n")
    partial.replace(folder / METRICS)


def flat(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Nested measures by one name each, as in a manifest: "chain.ndcg_10"."""
    return {
        f"{system}.{name}": value
        for system, values in metrics.items()
        for name, value in values.items()
    }
