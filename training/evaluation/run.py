"""Evaluation of a release on the test viewers: runs the chain, measures, writes the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vireo.server.arrays import BoolArray, Float64Array, Int64Array
from vireo.server.candidate.release import CandidateRelease
from vireo.server.ranking.release import RankingRelease
from vireo.training.evaluation import report as files
from vireo.training.evaluation.baselines.past import Past
from vireo.training.evaluation.baselines.registry import QUICK
from vireo.training.evaluation.baselines.settings import add_to_report, tuned_for
from vireo.training.evaluation.chain import (
    TestViewers,
    features_before_test,
    load_test_viewers,
    past_watches,
    run_chain,
    tower_scores,
    with_fewer_tested,
)
from vireo.training.evaluation.comparison import compare, with_intervals
from vireo.training.evaluation.metrics import recall
from vireo.training.evaluation.ranker import calibration, ranker_measures
from vireo.training.evaluation.report import Systems, read_json, write_json
from vireo.training.evaluation.systems import SystemReport, baseline_systems, of_chunks, of_lists
from vireo.training.features.publication import published_of
from vireo.training.ranking.train import CALIBRATION as RANKING_CALIBRATION
from vireo.training.ranking.train import CURVE as RANKING_CURVE
from vireo.training.retrieval.train import CURVE as RETRIEVAL_CURVE

_CUTOFFS = (1, 2, 5, 10, 20, 50, 100, 200, 500)

_HEAD, _MID = 0.1, 0.5
"""The most watched tenth of the catalogue is the head; the middle follows, up to half of it."""
_DAY = 86_400.0

Metrics = dict[str, dict[str, float]]
"""Measures by system, see SYSTEMS, and "ranker"."""

MAX_SCORES = 1_500_000_000
"""Maximum viewers x videos; each system ranks the whole catalogue for each viewer."""
MAX_VIEWERS = 8_000
"""Maximum viewers: the standard error of a hit rate is at most .006 then."""


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
    curves = {name: [recall(places, k) for k in cutoffs] for name, places in ranks.items()}
    return {"k": cutoffs, "systems": curves}


def popularity_curves(
    counts: Int64Array, watched: Int64Array, systems: Mapping[str, SystemReport]
) -> dict[str, list[float]]:
    """Return the `popularity_shares` of all watches, and of each system's ten best.

    Args:
        counts: watches of each video, int64[n].
        watched: rows of all watches, in any order.
        systems: by name.
    """
    shares = {"watches": popularity_shares(counts, watched)}
    for name, system in systems.items():
        shares[name] = popularity_shares(counts, system.slates[:, :10])
    return {name: share.tolist() for name, share in shares.items()}


def popularity_shares(counts: Int64Array, slates: Int64Array) -> Float64Array:
    """Return the share of `slates` that each decile of videos has, float64[10].

    Args:
        counts: watches of each video, int64[n]; the first decile has the most watched.
        slates: rows, any shape, -1 for none.
    """
    decile = np.empty(len(counts), np.int64)
    order = np.argsort(-counts, kind="stable")
    decile[order] = np.arange(len(counts)) * 10 // max(len(counts), 1)
    taken = np.bincount(decile[slates[slates >= 0]], minlength=10).astype(np.float64)
    shares: Float64Array = taken / max(taken.sum(), 1.0)
    return shares


@dataclass(frozen=True)
class Slicing:
    """A partition of the test viewers."""

    title: str
    groups: Mapping[str, BoolArray]
    """Who is in each group, bool[v], by the group's description."""


def slicings(
    watches: pd.DataFrame, videos: pd.DataFrame, viewers: TestViewers, counts: Int64Array
) -> dict[str, Slicing]:
    """Partition the test viewers by activity, and by popularity and age of the target.

    Args:
        watches: the split, whose test part are `viewers`.
        videos: the catalogue, a row a video.
        viewers: the test viewers.
        counts: watches of each video before the test, int64[n].
    """
    lengths = np.array([len(rows) for rows in viewers.watched], np.float64)
    return {
        "activity": Slicing(
            "Videos that the viewer had watched before", _quarters(lengths, "{:,.0f} to {:,.0f}")
        ),
        "popularity": Slicing(
            "Popularity of the held-out video", _popularity(counts, viewers.targets)
        ),
        "age": Slicing(
            "Age of the held-out video when it was watched, in days since it was published "
            "(if that isn't known: since anyone's first watch)",
            _quarters(_ages(watches, videos, viewers.targets), "{:,.0f} to {:,.0f} days"),
        ),
    }


def _quarters(values: Float64Array, form: str) -> dict[str, BoolArray]:
    """Return four groups of similar size, smallest values first; fewer if values repeat."""
    cuts = np.unique(np.quantile(values, [0.25, 0.5, 0.75]))
    place = np.searchsorted(cuts, values, side="left")
    parts = [place == number for number in range(len(cuts) + 1)]
    return {
        form.format(values[part].min(), values[part].max()): part for part in parts if part.any()
    }


def _popularity(counts: Int64Array, targets: Int64Array) -> dict[str, BoolArray]:
    place = np.empty(len(counts), np.int64)
    place[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    share = place[targets] / len(counts)
    groups = {
        "head: most watched tenth": share < _HEAD,
        "middle: the next four tenths": (share >= _HEAD) & (share < _MID),
        "tail: least watched half": share >= _MID,
    }
    return {name: part for name, part in groups.items() if part.any()}


def _ages(watches: pd.DataFrame, videos: pd.DataFrame, targets: Int64Array) -> Float64Array:
    """Return the days from each target's publication, or else first watch, to the test watch."""
    test = watches[watches["part"] == "test"]
    first = watches.groupby("video_id")["time"].min()
    born = videos["published"].fillna(videos["video_id"].map(first)).iloc[targets]
    age = (test["time"].reset_index(drop=True) - born.reset_index(drop=True)).dt.total_seconds()
    return np.asarray(age.fillna(0.0) / _DAY, np.float64)


def sliced(cut: Mapping[str, Slicing], ranks: Mapping[str, Int64Array]) -> dict[str, Any]:
    """Return every system's measures in each group, with intervals.

    Returns:
        By name of the slicing: `title`, and `groups`: a list of `name`, `n` viewers and
        `systems`, as in COMPARISON.
    """
    return {
        name: {
            "title": slicing.title,
            "groups": [
                {
                    "name": group,
                    "n": int(part.sum()),
                    "systems": with_intervals({s: places[part] for s, places in ranks.items()}),
                }
                for group, part in slicing.groups.items()
            ],
        }
        for name, slicing in cut.items()
    }


@dataclass(frozen=True)
class TestBed:
    """The test viewers, and what was known before the test."""

    __test__ = False  # The name would have pytest collect it.

    watches: pd.DataFrame
    """The split."""
    viewers: TestViewers
    past: Past

    @staticmethod
    def of(
        watches: pd.DataFrame, video_ids: Sequence[str], published: Float64Array | None = None
    ) -> TestBed:
        """Return the test bed of a split; rows are places in `video_ids`.

        `published` is as in TestViewers.

        Of more than MAX_VIEWERS, or of so many that a system would compute more than MAX_SCORES, a
        sample is drawn.
        """
        viewers = min(MAX_VIEWERS, MAX_SCORES // max(len(video_ids), 1))
        watches = with_fewer_tested(watches, max(1, viewers))
        past = list(past_watches(watches, video_ids).values())
        return TestBed(
            watches, load_test_viewers(watches, video_ids, published), Past(past, len(video_ids))
        )


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
