"""Evaluation of a release on the test viewers: runs the chain, measures, writes the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""Measures by system, see SYSTEMS, and "ranker"."""

MAX_SCORES = 1_500_000_000
"""Maximum viewers x videos; each system ranks the whole catalogue for each viewer."""


@dataclass(frozen=True)
class TestBed:
    """The test viewers, and what was known before the test."""

    __test__ = False  # The name would have pytest collect it.

    watches: pd.DataFrame
    """The split."""
    viewers: TestViewers
    past: Past

    @staticmethod
    def of(watches: pd.DataFrame, video_ids: Sequence[str]) -> TestBed:
        """Return the test bed of a split; rows are places in `video_ids`.

        Viewers are sampled to compute MAX_SCORES at most for each system.
        """
        watches = with_fewer_tested(watches, max(1, MAX_SCORES // max(len(video_ids), 1)))
        past = list(past_watches(watches, video_ids).values())
        viewers = load_test_viewers(watches, video_ids)
        return TestBed(watches, viewers, Past(past, len(video_ids)))


def evaluate_release(
    folder: Path,
    watches: pd.DataFrame,
    repo: Path,
    checkpoints: Path,
    report: Path,
    baselines: Sequence[str] = QUICK,
) -> Metrics:
    """Measure the release in `folder`, write the report and return its metrics.

    Args:
        folder: the release, finished or staged with its ranker.
        watches: the split that it was trained on, with a test part.
        repo: the feature folder.
        checkpoints: holds the learning curves and the calibration on validation.
        report: folder of the report; its other systems are kept.
        baselines: the baselines to measure it beside.
    """
    candidates, ranking = CandidateRelease.load(folder), RankingRelease.load(folder)
    bed = TestBed.of(watches, candidates.ids)
    del watches  # The test bed has fewer.
    features = features_before_test(bed.watches, repo)
    count = candidates.manifest.candidates
    answers = run_chain(candidates, ranking, features, bed.viewers.targets, count)
    systems = measured_baselines(bed, repo, candidates.manifest.dataset, baselines, report)
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
    return add_systems(report, bed, systems, ranker)


def measured_baselines(
    bed: TestBed, repo: Path, dataset: str, names: Sequence[str], report: Path | None
) -> dict[str, SystemReport]:
    """Measure baselines with the settings tuned for the data, if any, and report the settings."""
    tuned = tuned_for(bed.past, repo, dataset)
    systems = baseline_systems(bed.past, bed.viewers, names, tuned.configs())
    if report:
        add_to_report(report, tuned.of(systems))
    return systems


def add_systems(
    report: Path,
    bed: TestBed,
    systems: Mapping[str, SystemReport],
    ranker: Mapping[str, float] | None = None,
) -> Metrics:
    """Add systems to those that a report has, and return the measures of all.

    Args:
        report: its folder.
        bed: the viewers that they were measured on.
        systems: by name, see SYSTEMS.
        ranker: measures of the ranker; the report's own are kept if None.
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
    curves = popularity_curves(bed.past.counts, watched, together.reports)
    write_json(report, files.POPULARITY, curves)
    return metrics


def compare_systems(report: Path, bed: TestBed, videos: pd.DataFrame) -> None:
    """Write intervals, tests and slices of all systems in a report.

    Args:
        report: its folder, with RANKS.
        bed: the viewers that they were measured on.
        videos: the catalogue, a row a video.
    """
    ranks = Systems.load(report, bed.viewers.ids).ranks
    write_json(report, files.COMPARISON, compare(ranks))
    cuts = slicings(bed.watches, videos, bed.viewers, bed.past.counts)
    write_json(report, files.SLICES, sliced(cuts, ranks))
