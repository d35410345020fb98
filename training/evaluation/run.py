"""Evaluates a release on the test viewers: runs the chain, measures, writes the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from server.candidate.release import CandidateRelease
from server.ranking.release import RankingRelease
from training.evaluation import report as files
from training.evaluation.baselines.past import Past
from training.evaluation.baselines.registry import QUICK
from training.evaluation.baselines.settings import add_to_report, tuned_for
from training.evaluation.chain import (
    TestViewers,
    features_before_test,
    load_test_viewers,
    past_watches,
    run_chain,
    tower_scores,
    with_fewer_tested,
)
from training.evaluation.comparison import compare
from training.evaluation.curves import popularity_curves, read_learning, recall_curves
from training.evaluation.ranker import calibration, ranker_measures
from training.evaluation.report import Systems, read_json, write_json
from training.evaluation.slices import sliced, slicings
from training.evaluation.systems import SystemReport, baseline_systems, of_chunks, of_lists
from training.ranking.train import CALIBRATION as RANKING_CALIBRATION
from training.ranking.train import CURVE as RANKING_CURVE
from training.retrieval.train import CURVE as RETRIEVAL_CURVE

Metrics = dict[str, dict[str, float]]

SCORES = 1_500_000_000
"""Viewers x videos, at most: each system ranks the whole catalogue for each viewer."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured on the test viewers."""

    metrics: Metrics
    """By system, see SYSTEMS, and "ranker"."""
    viewers: int
    """How many viewers were tested."""


@dataclass(frozen=True)
class TestBed:
    """Whom to test, and what was known before the test."""

    __test__ = False  # Not a test class, whatever pytest makes of its name.

    watches: pd.DataFrame
    """The split."""
    viewers: TestViewers
    past: Past

    @staticmethod
    def of(watches: pd.DataFrame, video_ids: Sequence[str]) -> TestBed:
        """The test part of a split; rows are places in `video_ids`.

        Of so many viewers that no more than SCORES are worked out for each system.
        """
        watches = with_fewer_tested(watches, max(1, SCORES // max(len(video_ids), 1)))
        past = list(past_watches(watches, video_ids).values())
        viewers = load_test_viewers(watches, video_ids)
        return TestBed(watches, viewers, Past(past, len(video_ids)))


def evaluate_release(
    folder: Path,
    watches: pd.DataFrame,
    repo: Path,
    checkpoints: Path,
    report: Path,
    *,
    baselines: Sequence[str] = QUICK,
    fitting: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Evaluates the release in `folder` and writes the report.

    Args:
        folder: the release, finished or staged with its ranker.
        watches: the split that it was trained on, its test part not empty.
        repo: the Feast repository.
        checkpoints: where the learning curves and the calibration on validation are.
        report: folder of the report; what it has of other systems is kept.
        baselines: which to measure it beside.
        fitting: called with the name of each before it is fitted.
    """
    candidates, ranking = CandidateRelease.load(folder), RankingRelease.load(folder)
    bed = TestBed.of(watches, candidates.ids)
    del watches  # Those of the bed are fewer.
    features = features_before_test(bed.watches, repo)
    count = candidates.manifest.candidates
    answers = run_chain(candidates, ranking, features, bed.viewers.targets, count)
    tuned = tuned_for(bed.past, repo, candidates.manifest.dataset)
    systems = baseline_systems(bed.past, bed.viewers, baselines, fitting, tuned.configs())
    add_to_report(report, tuned.of(systems))
    systems["two_tower"] = of_chunks(
        lambda part: tower_scores(candidates, features[part]), bed.viewers, bed.past.videos
    )
    systems["chain"] = of_lists(answers.ranked, bed.viewers)
    ranker = ranker_measures(answers, bed.viewers)
    calibrated = {
        "bins": calibration(answers, bed.viewers),
        "test": ranker,
        "validation": read_json(checkpoints, RANKING_CALIBRATION),
    }
    write_json(report, files.CALIBRATION, calibrated)
    curves = {
        "retrieval": read_learning(checkpoints / RETRIEVAL_CURVE),
        "ranking": read_learning(checkpoints / RANKING_CURVE),
    }
    write_json(report, files.LEARNING, curves)
    metrics = add_systems(report, bed, systems, ranker)
    return Evaluation(metrics, len(bed.viewers.ids))


def add_systems(
    report: Path,
    bed: TestBed,
    systems: Mapping[str, SystemReport],
    ranker: Mapping[str, float] | None = None,
) -> Metrics:
    """Writes what the systems did into the report, beside those that it has already.

    Args:
        report: its folder.
        bed: whom they were tested on.
        systems: by name, see SYSTEMS.
        ranker: measures of the ranker; those that the report has are kept if None.

    Returns:
        The measures of all systems in the report, and "ranker" where it is known.
    """
    together = Systems.load(report, bed.viewers.ids).also(systems)
    together.write(report)
    videos = bed.past.videos
    metrics = {name: system.measures(videos) for name, system in together.reports.items()}
    known = ranker or read_json(report, files.METRICS).get("ranker")
    if known:
        metrics["ranker"] = dict(known)
    document: dict[str, Any] = {"viewers": len(bed.viewers.ids), "videos": videos, **metrics}
    write_json(report, files.METRICS, document)
    write_json(report, files.RECALL, recall_curves(together.ranks, videos))
    watched = np.concatenate([np.empty(0, np.int64), *bed.past.histories])
    write_json(
        report,
        files.POPULARITY,
        popularity_curves(bed.past.counts, watched, together.reports),
    )
    return metrics


def compare_systems(report: Path, bed: TestBed, videos: pd.DataFrame) -> None:
    """Writes intervals, tests and slices of all systems in the report.

    Args:
        report: its folder, with RANKS.
        bed: whom they were tested on.
        videos: the catalogue, a row a video.
    """
    ranks = Systems.load(report, bed.viewers.ids).ranks
    write_json(report, files.COMPARISON, compare(ranks))
    cuts = slicings(bed.watches, videos, bed.viewers, bed.past.counts)
    write_json(report, files.SLICES, sliced(cuts, ranks))
