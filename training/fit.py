"""One fit of both models to a data set: from its features to a staged release, in five steps.

Each step leaves its result on disk under a fingerprint of all that went in, so that a run that
was interrupted goes on where it stopped, and one whose data or settings changed starts afresh.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from server.candidate.release import CandidateRelease
from server.home import Home
from server.releases.manifest import FORMAT_VERSION, FeatureSchema, Manifest, Quotas, ScoreWeights
from training.data.dataset import Dataset
from training.data.split import VALIDATION_WATCHES, Holdout
from training.evaluation.diversity import ALLOWED_LOSS, choose_diversity
from training.evaluation.leaks import check_inputs, check_made
from training.evaluation.report import flat
from training.evaluation.run import evaluate_release
from training.features.build import build_features
from training.features.online_store import OnlineStoreSettings
from training.features.progress import progress_bars
from training.features.watches import FeaturesMissingError, Split, load_watches
from training.profile import Profile
from training.ranking.storage import load_ranking_set, save_ranking_set
from training.ranking.train import TrainedRanker, train_ranker
from training.ranking.training_set import RankingSet, build_ranking_set
from training.release.measured import add_measured
from training.release.stage import Origin, finish_release, stage_ranker, stage_retrieval
from training.retrieval.data import RetrievalData
from training.retrieval.distributed import Processes
from training.retrieval.ensemble import train_towers
from training.run import Run, fingerprint


def fit(
    home: Home,
    dataset: Dataset,
    settings: Profile,
    holdout: Holdout,
    console: Console,
    *,
    processes: Processes | None = None,
    measured: Path | None = None,
) -> Manifest:
    """Fit both models, stage their release in `home`, and return its manifest.

    Args:
        home: where features and the run lie.
        dataset: what to learn from.
        settings: of both models.
        holdout: "last" keeps each viewer's last watch from training and measures on it; "none"
            keeps nothing.
        console: where the steps are announced.
        processes: those that share the towers' training, this one leading; one alone if None.
        measured: folder of the measured twin, which becomes a part of the release; with "none".

    Raises:
        TrainingInterruptedError: Ctrl-C; the same call goes on from there.
        LeakError: something of a test watch, or of after it, would be learned from.
        VireoError: anything else that the user can mend.
    """
    split = ensure_features(home, dataset, holdout, console)
    inputs = _inputs(home, dataset, settings, split)
    ranking_inputs = fingerprint(inputs.fingerprint, asdict(settings.ranking))
    finished_inputs = ranking_inputs
    if measured:
        finished_inputs = fingerprint(ranking_inputs, Manifest.read(measured).release_id)
    manifest = inputs.run.finished(finished_inputs)
    if manifest:
        console.print(f"nothing to do: {manifest.release_id} was trained with these settings")
        return manifest
    release = _retrieval(inputs, processes or Processes(), console)
    console.rule("3 of 5  the ranker's training set, drawn by the candidate pipeline")
    ranking_set = _ranking_set(inputs, release, ranking_inputs)
    console.rule("4 of 5  the ranker")
    ranker = _ranker(inputs, release, ranking_set, ranking_inputs, console)
    console.rule("5 of 5  evaluation and release")
    metrics = _evaluated(inputs, ranker)
    inputs.run.unmark_draft()
    if measured:
        metrics = add_measured(inputs.run.draft, measured)
    manifest = finish_release(inputs.run.draft, inputs.run.release, metrics)
    inputs.run.mark_finished(finished_inputs, manifest)
    return manifest


def ensure_features(home: Home, dataset: Dataset, holdout: Holdout, console: Console) -> Split:
    """Return the split of the features, which are built if missing or made of other data."""
    wanted = Split(
        holdout=holdout,
        data_fingerprint=dataset.fingerprint,
        validation_watches=VALIDATION_WATCHES,
    )
    try:
        split = Split.load(home, dataset.name)
    except FeaturesMissingError:
        split = None
    if split != wanted:
        console.rule(f"features of {dataset.name}")
        with progress_bars(console) as progress:
            # Nobody but this machine measures: a shared store is for what viewers are served.
            own = OnlineStoreSettings(online_store="sqlite") if holdout == "last" else None
            build_features(home, dataset.name, holdout, progress, own)
    return wanted


@dataclass(frozen=True)
class _Inputs:
    """What a fit starts from."""

    home: Home
    dataset: Dataset
    settings: Profile
    split: Split
    quotas: Quotas
    watches: pd.DataFrame
    repo: Path
    """The folder of features."""
    run: Run
    data: RetrievalData
    fingerprint: str
    """Of all that decides the retrieval part."""


def _inputs(home: Home, dataset: Dataset, settings: Profile, split: Split) -> _Inputs:
    repo, run = home.features(dataset.name), Run(home.run(dataset.name))
    data = RetrievalData.stream(
        repo / "watches.parquet", dataset.videos, dataset.viewers, run.sequences
    )
    retrieval, quotas = settings.retrieval, Quotas()
    return _Inputs(
        home,
        dataset,
        settings,
        split,
        quotas,
        load_watches(home, dataset.name),
        repo,
        run,
        data,
        fingerprint(
            FORMAT_VERSION,
            # Whatever the members are: the retrieval settings below have their number.
            FeatureSchema.ours(retrieval.history_limit, retrieval.dimension).model_dump(),
            quotas.model_dump(),
            split.model_dump(),
            data.fingerprint(),
            asdict(retrieval),
        ),
    )


def _retrieval(inputs: _Inputs, processes: Processes, console: Console) -> CandidateRelease:
    """Return the staged retrieval part, trained unless an earlier run has done it."""
    run = inputs.run
    release = run.drafted(inputs.fingerprint)
    if release is not None:
        return release
    check_inputs(inputs.watches, inputs.data, inputs.repo)
    console.rule("1 of 5  retrieval: the two towers")
    processes.leader_says(str(inputs.home.root))
    model = train_towers(
        inputs.data, inputs.settings.retrieval, run.checkpoints, console, processes
    )
    console.rule("2 of 5  exporting the viewer tower, building index and tables")
    origin = Origin(inputs.dataset.name, inputs.split.data_fingerprint, inputs.split.holdout)
    run.unmark_draft()
    release = stage_retrieval(
        run.draft, model, inputs.data, inputs.dataset, inputs.repo, origin, inputs.quotas
    )
    run.mark_draft(inputs.fingerprint)
    return release


def _ranking_set(inputs: _Inputs, release: CandidateRelease, made_of: str) -> RankingSet:
    """Return the ranker's training set, from disk if it was made of these inputs."""
    settings, run = inputs.settings.ranking, inputs.run
    data = load_ranking_set(run.ranking_set, made_of)
    if data is None:
        data = build_ranking_set(inputs.watches, inputs.repo, release, settings)
        save_ranking_set(run.ranking_set, data, made_of)
    check_made(inputs.watches, inputs.data, run.draft, data, settings.viewers)
    return data


def _ranker(
    inputs: _Inputs,
    release: CandidateRelease,
    ranking_set: RankingSet,
    made_of: str,
    console: Console,
) -> TrainedRanker:
    """Return the trained ranker, which is staged with the weights that order its slates."""
    settings = inputs.settings.ranking
    vectors = release.vectors.astype(np.float32, copy=False)
    attributes = len(inputs.data.vocabulary)
    ranker = train_ranker(
        ranking_set, vectors, attributes, settings, inputs.run.checkpoints, made_of, console
    )
    console.print(ranker.described())
    weights = ScoreWeights(
        watch=settings.watch_weight,
        like=settings.like_weight,
        diversity=settings.diversity or 0.0,
    )
    if settings.diversity is None:
        chosen = choose_diversity(ranker.model, ranking_set, vectors, weights)
        console.print(f"diversity of strength {chosen:g} costs less than {ALLOWED_LOSS:.1%}")
        weights = weights.model_copy(update={"diversity": chosen})
    stage_ranker(
        inputs.run.draft, ranker.model, inputs.data, weights, ranking_set.watches.rows.shape[1]
    )
    return ranker


def _evaluated(inputs: _Inputs, ranker: TrainedRanker) -> dict[str, float]:
    """Return the metrics of the staged release, and write its report if watches are held out."""
    run = inputs.run
    metrics = flat(
        {
            "held_out": vars(ranker.held_out["chosen"]),
            "validation_calibration_error": ranker.calibration_error,
        }
    )
    # A report of an earlier run would say nothing of this release.
    shutil.rmtree(run.report, ignore_errors=True)
    if (inputs.watches["part"] == "test").any():
        evaluation = evaluate_release(
            run.draft, inputs.watches, inputs.repo, run.checkpoints, run.report
        )
        metrics |= flat(evaluation.metrics)
    return metrics
