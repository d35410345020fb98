"""Evaluation of a release on the test viewers: runs the chain, measures, writes the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vireo.server.arrays import Int64Array
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import Manifest, ReleaseError
from vireo.training.data.dataset import load_dataset
from vireo.training.evaluation import report as files
from vireo.training.evaluation.baselines import BASELINES, QUICK, fitted
from vireo.training.evaluation.chain import calibration, ranker_measures, run_chain, tower_scores
from vireo.training.evaluation.report import (
    popularity_shares,
    read_json,
    sliced,
    write_json,
    write_page,
)
from vireo.training.evaluation.systems import (
    SYSTEMS,
    SystemReport,
    TestBed,
    features_before_test,
    of_chunks,
    of_lists,
    ranks_by_system,
    read_systems,
    write_systems,
)
from vireo.training.evaluation.tuning import add_to_report, tuned_for
from vireo.training.features.publication import published_of, published_times
from vireo.training.features.watches import Split, load_watches
from vireo.training.metrics import compare, hit_rate
from vireo.training.ranking.train import CALIBRATION as RANKING_CALIBRATION
from vireo.training.ranking.train import CURVE as RANKING_CURVE
from vireo.training.retrieval.train import CURVE as RETRIEVAL_CURVE
from vireo.training.run import Run

_CUTOFFS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
Metrics = dict[str, dict[str, float]]
"""Measures by system, see SYSTEMS, and "ranker"."""


@dataclass(frozen=True)
class Agreement:
    """How far a stack's lists equal those of the same release in process."""

    same_top_10: float
    """Share of viewers whose first ten are the same, in the same order."""
    differing_viewers: int
    """Number of other viewers, failed calls included."""

    @staticmethod
    def of(served: Int64Array, offline: Int64Array) -> Agreement:
        """Compare rows of the same viewers, int64[v, at least 10] both."""
        same = (served[:, :10] == offline[:, :10]).all(axis=1)
        return Agreement(float(same.mean()), int((~same).sum()))


@dataclass(frozen=True)
class Evaluated:
    """Results of an evaluation."""

    release_id: str
    metrics: Metrics
    answers: dict[str, int] = field(default_factory=dict)
    """Counts of the stack's responses; empty if none was asked."""
    agreement: Agreement | None = None
    """Agreement of the stack with the same release in process."""


def evaluate_staged(home: Home, dataset: str, baselines: Sequence[str] = QUICK) -> Evaluated:
    """Measure the newest trained release in process, and update its report.

    With all of BASELINES, intervals, tests and slices are written too.

    Raises:
        VireoError: there is none, or it can't be tested.
    """
    run, manifest = Run(home.run(dataset)), staged_manifest(home, dataset)
    watches, repo = load_watches(home, dataset), home.features(dataset)
    metrics = evaluate_release(run.release, watches, repo, run, baselines)
    videos = load_dataset(home, dataset).videos
    bed = TestBed.of(watches, videos["video_id"].tolist(), published_times(videos))
    finish_report(run, manifest, bed, videos, baselines)
    return Evaluated(manifest.release_id, metrics)


def read_measured(home: Home, dataset: str) -> Evaluated:
    """Return what the report has of the newest trained release, without measuring it again.

    Raises:
        VireoError: there is no release, or it can't be tested.
    """
    manifest = staged_manifest(home, dataset)
    document = read_json(Run(home.run(dataset)).report, files.METRICS)
    metrics = {name: each for name, each in document.items() if isinstance(each, dict)}
    return Evaluated(manifest.release_id, metrics)


def write_report_page(home: Home, dataset: str, path: Path | None = None) -> Path:
    """Write the page of the newest run's report and return its path.

    Raises:
        VireoError: there is no release or no report, or the file can't be written.
    """
    return write_page(Run(home.run(dataset)).report, staged_manifest(home, dataset), path)


def staged_manifest(home: Home, dataset: str) -> Manifest:
    """Return the newest trained release's manifest; raise VireoError if it can't be tested."""
    try:
        manifest = Manifest.read(home.staged_release(dataset))
    except ReleaseError as error:
        raise VireoError(f"{error}; train one with: vireo train --data {dataset}") from error
    check_dataset(manifest, dataset)
    check_split(manifest, Split.load(home, dataset))
    return manifest


def check_dataset(manifest: Manifest, dataset: str) -> None:
    """Raise VireoError unless a release was trained on this data set with watches held out."""
    name = manifest.release_id
    if manifest.dataset != dataset:
        raise VireoError(
            f"release {name} was trained on {manifest.dataset}; "
            f"evaluate with --data {manifest.dataset}, or publish a release of {dataset}"
        )
    if manifest.holdout == "none":
        raise VireoError(
            f"release {name} was trained on every watch, so none is left to test on; evaluate its "
            f"measured twin with: vireo evaluate served --data {dataset}"
        )


def check_split(manifest: Manifest, split: Split) -> None:
    """Raise VireoError unless a release that passes `check_dataset` has this very split."""
    if (split.data_fingerprint, split.holdout) == (manifest.data_fingerprint, manifest.holdout):
        return
    raise VireoError(
        f"release {manifest.release_id} was trained on other features of {manifest.dataset} than "
        "these, and may have seen what they hold out; train again with: "
        f"vireo train --data {manifest.dataset}"
    )


def evaluate_release(
    folder: Path,
    watches: pd.DataFrame,
    repo: Path,
    run: Run,
    baselines: Sequence[str] = QUICK,
) -> Metrics:
    """Measure the release in `folder`, write the report and return its metrics.

    Args:
        folder: the release, finished or staged with its ranker.
        watches: the split that it was trained on, with a test part.
        repo: the feature folder.
        run: has the learning curves, the calibration on validation, and the report, whose other
            systems are kept.
        baselines: the baselines to measure it beside.
    """
    candidates, ranking = CandidateRelease.load(folder), RankingRelease.load(folder)
    checkpoints, report = run.checkpoints, run.report
    bed = TestBed.of(watches, candidates.ids, published_of(candidates))
    del watches  # The test bed has fewer.
    features = features_before_test(bed.watches, repo)
    count = candidates.manifest.candidates
    answers = run_chain(candidates, ranking, features, bed.viewers.targets, count, repo)
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
    watched = bed.viewers.watched
    systems = {
        name: of_chunks(
            lambda part, scores=baseline: scores(watched[part]),  # type: ignore[misc]
            bed.viewers,
            bed.past.videos,
        )
        for name, baseline in fitted(names, bed.past, tuned.configs())
    }
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
    known = {**read_systems(report, bed.viewers.ids), **systems}
    together = {name: known[name] for name in SYSTEMS if name in known}
    write_systems(report, bed.viewers.ids, together)
    videos = bed.past.videos
    metrics = {name: system.measures(videos) for name, system in together.items()}
    if ranker := ranker or read_json(report, files.METRICS).get("ranker"):
        metrics["ranker"] = dict(ranker)
    document: dict[str, Any] = {"viewers": len(bed.viewers.ids), "videos": videos, **metrics}
    write_json(report, files.METRICS, document)
    write_json(report, files.RECALL, recall_curves(ranks_by_system(together), videos))
    watched = np.concatenate([np.empty(0, np.int64), *bed.past.histories])
    taken = {name: system.slates[:, :10] for name, system in together.items()}
    shares = {
        name: popularity_shares(bed.past.counts, rows)
        for name, rows in {"watches": watched, **taken}.items()
    }
    write_json(report, files.POPULARITY, shares)
    return metrics


def finish_report(
    run: Run, manifest: Manifest, bed: TestBed, videos: pd.DataFrame, baselines: Sequence[str]
) -> None:
    """Update the page; and intervals, tests and slices if all baselines were ever measured.

    Args:
        run: the run, with a report.
        manifest: its release's.
        bed: the viewers that the report's systems were measured on.
        videos: the catalogue, a row a video.
        baselines: those measured now.
    """
    if set(baselines) == set(BASELINES) or (run.report / files.COMPARISON).exists():
        ranks = ranks_by_system(read_systems(run.report, bed.viewers.ids))
        write_json(run.report, files.COMPARISON, compare(ranks))
        slices = sliced(bed.watches, videos, bed.viewers, bed.past.counts, ranks)
        write_json(run.report, files.SLICES, slices)
    write_page(run.report, manifest)


def read_learning(path: Path) -> list[dict[str, Any]]:
    """Return the points of a learning curve, none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def recall_curves(ranks: Mapping[str, Int64Array], videos: int) -> dict[str, Any]:
    """Return recall by list length: `k`, and `systems` by name, a number for each k.

    The curve of a system that returns lists is flat beyond their length.
    """
    cutoffs = [k for k in _CUTOFFS if k <= videos]
    curves = {name: [hit_rate(places, k) for k in cutoffs] for name, places in ranks.items()}
    return {"k": cutoffs, "systems": curves}
