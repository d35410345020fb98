"""Evaluates a release on the test viewers: runs the chain, measures, writes the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from server.candidate.release import CandidateRelease
from server.ranking.release import RankingRelease
from training.evaluation import plots
from training.evaluation.chain import (
    features_before_test,
    load_test_viewers,
    past_watches,
    run_chain,
)
from training.evaluation.report import (
    SystemReport,
    baselines,
    chain_systems,
    of_lists,
    ranker_measures,
    write_metrics,
)
from training.ranking.train import CURVE as RANKING_CURVE
from training.retrieval.train import CURVE as RETRIEVAL_CURVE

_CUTOFFS = (1, 2, 5, 10, 20, 50, 100, 200)
Metrics = dict[str, dict[str, float]]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """What was measured on the test viewers."""

    metrics: Metrics
    """By system ("popularity", "ease", "two_tower", "chain"), and "ranker"."""
    viewers: int
    """How many viewers were tested."""


def evaluate_release(
    folder: Path, watches: pd.DataFrame, repo: Path, checkpoints: Path, report: Path, count: int
) -> Evaluation:
    """Evaluates the release in `folder` and writes the report.

    Args:
        folder: the release, finished or staged with its ranker.
        watches: the split that it was trained on, its test part not empty.
        repo: the Feast repository.
        checkpoints: where the learning curves are.
        report: folder of the report.
        count: how many candidates are ranked for each viewer.
    """
    candidates, ranking = CandidateRelease.load(folder), RankingRelease.load(folder)
    viewers = load_test_viewers(watches, candidates.ids)
    past = list(past_watches(watches, candidates.ids).values())
    features = features_before_test(watches, repo)
    answers = run_chain(candidates, ranking, features, viewers.targets, count)
    videos = len(candidates.keys)
    systems = baselines(past, videos, viewers) | chain_systems(answers, viewers)
    metrics: Metrics = {name: system.measures(videos) for name, system in systems.items()}
    metrics["ranker"] = ranker_measures(answers, viewers)
    report.mkdir(parents=True, exist_ok=True)
    union = {"candidates of all sources": of_lists(answers.candidates, viewers)}
    _plot_systems(report, systems, union, past, videos)
    real = answers.ranked >= 0
    hits = (answers.ranked == viewers.targets[:, None])[real]
    plots.plot_calibration(
        report / plots.CALIBRATION,
        {"watch": (answers.watch[real], hits), "like": (answers.target_like, viewers.liked)},
    )
    plots.plot_learning(
        report / plots.LEARNING,
        plots.read_curve(checkpoints / RETRIEVAL_CURVE),
        plots.read_curve(checkpoints / RANKING_CURVE),
    )
    document: dict[str, Any] = {"viewers": len(viewers.ids), "videos": videos, **metrics}
    write_metrics(report, document)
    return Evaluation(metrics, len(viewers.ids))


def _plot_systems(
    report: Path,
    systems: Mapping[str, SystemReport],
    union: Mapping[str, SystemReport],
    past: Sequence[Int64Array],
    videos: int,
) -> None:
    """Recall by k of all systems and of the retrieved union, and their popularity bias."""
    ranks = {name: system.ranks for name, system in (*systems.items(), *union.items())}
    plots.plot_recall(report / plots.RECALL, ranks, [k for k in _CUTOFFS if k <= videos])
    everything = np.concatenate(past)
    counts = np.bincount(everything, minlength=videos)
    shares = {"watches": plots.popularity_shares(counts, everything)}
    for name, system in systems.items():
        shares[name] = plots.popularity_shares(counts, system.slates[:, :10])
    plots.plot_popularity(report / plots.POPULARITY, shares)
