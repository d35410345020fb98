"""Training end to end: a measured fit, then the one that is served.

The measured fit holds out each viewer's last watch, and is evaluated on it. The second one
continues the towers from its weights for a few more epochs on every watch, validation and test
watches included, and recounts the tables. The ranker is kept: its labels must be unseen by the
towers, and now no watch is. A few epochs at a low learning rate hardly move the vectors that it
reads. No watch is left to measure the result on; docs/evaluation.md has what the same step
gave one watch earlier.

Each step stores its result under a fingerprint of its inputs, so that an interrupted run resumes,
and a run whose data or settings changed starts afresh.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from vireo.server.home import Home, keep_private
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.releases.manifest import (
    FORMAT_VERSION,
    FeatureSchema,
    Manifest,
    Quotas,
    ScoreWeights,
)
from vireo.server.releases.memory import return_memory
from vireo.training.config import RetrievalConfig
from vireo.training.data.dataset import Dataset, load_dataset
from vireo.training.data.split import Holdout
from vireo.training.evaluation.choices import (
    ALLOWED_LOSS,
    FIT_VIEWERS,
    Proposals,
    choose_diversity,
    fit_quotas,
)
from vireo.training.evaluation.report import flat
from vireo.training.evaluation.run import evaluate_release
from vireo.training.evaluation.systems import last_held_out
from vireo.training.features.build import build_features, progress_bars
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.training.features.watches import FeaturesMissingError, Split, load_watches
from vireo.training.modules import Checkpoints
from vireo.training.profile import Profile, load_profile
from vireo.training.progress import heartbeat
from vireo.training.ranking.shown_lists import ShownLog, shown_lists
from vireo.training.ranking.train import RankingTrainer, TrainedRanker
from vireo.training.ranking.training_set import (
    RankingSet,
    build_ranking_set,
    load_ranking_set,
    save_ranking_set,
)
from vireo.training.release.stage import (
    finish_release,
    stage_ranker,
    stage_retrieval,
    take_ranker,
)
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.train import train_retrieval
from vireo.training.retrieval.validation import check_beats_popularity
from vireo.training.run import Run, fingerprint, measuring_home, only_training

REFIT_EPOCHS = 1 / 8
"""Epochs and steps of the second fit as a share of the first's; at least one epoch."""
REFIT_RATE = 1 / 4
"""Its learning rate as a share of the first's; it decays to zero from the start."""


def ensure_features(home: Home, dataset: Dataset, holdout: Holdout, console: Console) -> Split:
    """Return the features' split; build the features if missing or built from other data."""
    wanted = Split.of(holdout, dataset.info.fingerprint)
    try:
        split = Split.load(home, dataset.info.name)
    except FeaturesMissingError:
        split = None
    if split != wanted:
        console.rule(f"features of {dataset.info.name}")
        with progress_bars(console) as progress:
            # Measuring stays local; a shared store holds only what serving reads.
            own = OnlineStoreSettings(online_store="sqlite") if holdout == "last" else None
            build_features(home, dataset.info.name, holdout, progress, own)
    return wanted


@dataclass(frozen=True)
class Inputs:
    """Inputs of a fit: a split of a data set, its features and its watches."""

    home: Home
    dataset: Dataset
    settings: Profile
    split: Split
    data: RetrievalData

    @staticmethod
    def of(
        home: Home, dataset: Dataset, settings: Profile, holdout: Holdout, console: Console
    ) -> Inputs:
        """Return the inputs; build the features if need be."""
        split = ensure_features(home, dataset, holdout, console)
        watches, context = load_watches(home, dataset.info.name), settings.retrieval.context
        data = RetrievalData.build(watches, dataset.videos, dataset.viewers, context=context)
        del watches
        return_memory()  # Freed strings of the tables lie between strings that are kept.
        return Inputs(home, dataset, settings, split, data)

    @property
    def repo(self) -> Path:
        """The feature folder."""
        return self.home.features(self.dataset.info.name)

    @property
    def run(self) -> Run:
        """The run's folder."""
        return Run(self.home.run(self.dataset.info.name))

    @property
    def watches(self) -> pd.DataFrame:
        """The split's watches, read on each use: keeping them takes too much memory."""
        return load_watches(self.home, self.dataset.info.name)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of everything that determines the retrieval part."""
        retrieval = self.settings.retrieval
        return fingerprint(
            FORMAT_VERSION,
            # Without the tasks and their outcomes, which the ranker alone learns.
            FeatureSchema.ours(
                retrieval.history_limit, retrieval.dimension, self.data.context
            ).model_dump(exclude={"tasks"}),
            self.split.model_dump(exclude={"outcomes", "features_format"}),
            self.data.fingerprint(),
            asdict(retrieval),
        )

    def stage_retrieval(self, model: TwoTower, quotas: Quotas | None = None) -> CandidateRelease:
        """Stage the release's retrieval part with the trained towers and return it.

        `quotas` are those of its sources; the defaults if None.
        """
        return stage_retrieval(
            self.run.draft, model, self.data, self.dataset, self.repo, self.split, quotas
        )


def fit(
    home: Home,
    dataset: Dataset,
    settings: Profile,
    console: Console,
    *,
    force: bool = False,
    log: ShownLog | None = None,
) -> Manifest:
    """Fit both models with each viewer's last watch held out, and evaluate them on it.

    Stages the release in `home` and returns its manifest. With a `log` the ranker also learns from
    what was shown.

    Raises:
        TrainingInterruptedError: Ctrl-C; the same call resumes.
        WorseThanPopularityError: the towers are worse than popularity, unless `force`.
        VireoError: any other error that the user can fix.
    """
    inputs = Inputs.of(home, dataset, settings, "last", console)
    run, ranking = inputs.run, settings.ranking
    shown = [log.fingerprint] if log else []
    made_of = fingerprint(inputs.fingerprint, inputs.split.outcomes, asdict(ranking), *shown)
    if manifest := run.finished(made_of):
        console.print(f"nothing to do: {manifest.release_id} was trained with these settings")
        return manifest
    release = run.drafted(inputs.fingerprint) or _retrieval(inputs, console, force)
    console.rule("3 of 5  the ranker's training set, drawn by the candidate pipeline")
    ranking_set = load_ranking_set(run.ranking_set, made_of)
    if ranking_set is None:
        ranking_set = build_ranking_set(inputs.watches, inputs.repo, release, ranking)
        save_ranking_set(run.ranking_set, ranking_set, made_of)
    if log:
        lists = shown_lists(log, inputs.watches, release, ranking.holdout_share, console)
        ranking_set = replace(ranking_set, shown=lists)
    console.rule("4 of 5  the ranker")
    fatigue = log.fatigue if log else 0.0
    ranker = _ranker(inputs, release, ranking_set, made_of, fatigue, console)
    del release, ranking_set  # Evaluation loads the release anew, and needs no training set.
    console.rule("5 of 5  evaluation and release")
    metrics = _evaluated(inputs, ranker)
    run.unmark_draft()
    manifest = finish_release(run.draft, run.release, metrics)
    run.mark_finished(made_of, manifest)
    return manifest


def _retrieval(inputs: Inputs, console: Console, force: bool) -> CandidateRelease:
    """Train the towers, stage the retrieval part, and return it."""
    run, settings = inputs.run, inputs.settings
    console.rule("1 of 5  retrieval: the two towers")
    model = train_retrieval(inputs.data, settings.retrieval, run.checkpoints, console)
    check_beats_popularity(model, inputs.data, console, force=force)
    console.rule("2 of 5  exporting the viewer tower, building index and tables")
    run.unmark_draft()
    release = inputs.stage_retrieval(model)
    del model
    return_memory()
    count = settings.ranking.candidates
    release = with_quotas(release, inputs.watches, inputs.repo, count, console)
    run.mark_draft(inputs.fingerprint)
    return release


def with_quotas(
    release: CandidateRelease, watches: pd.DataFrame, repo: Path, count: int, console: Console
) -> CandidateRelease:
    """Return the staged release with quotas that are fitted to the validation watches, if any.

    They are for `count` candidates; a catalogue of no more needs none.
    """
    held_out = last_held_out(watches, repo, release.rows, "validation", FIT_VIEWERS)
    if not held_out.viewers or count >= len(release.keys):
        return release
    path = fit_quotas(Proposals.gather(release, held_out, count), count)
    alone, *_, recall = [path[0]["recall"], *(step.pop("recall") for step in path)]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in path[-1].items() if share)
    console.print(
        f"{count} candidates hold {recall:.1%} of {len(held_out.viewers):,} validation watches by "
        f"quotas of {shares}; before quotas were raised {alone:.1%}",
        soft_wrap=True,
    )
    manifest = release.manifest.model_copy(update={"quotas": Quotas(path[-1])})
    manifest.write(release.folder)
    return replace(release, manifest=manifest)


def _ranker(
    inputs: Inputs,
    release: CandidateRelease,
    ranking_set: RankingSet,
    made_of: str,
    fatigue: float,
    console: Console,
) -> TrainedRanker:
    """Train the ranker, stage it with its score weights, and return it."""
    settings, run = inputs.settings.ranking, inputs.run
    vectors = release.vectors.astype(np.float32, copy=False)
    # The trainer, which holds a copy of the vectors, is freed here.
    ranker = RankingTrainer(
        ranking_set,
        vectors,
        release.manifest.feature_schema,
        len(inputs.data.vocabulary),
        settings,
        Checkpoints(run.checkpoints, made_of),
    ).trained(console)
    console.print(ranker.described())
    weights = ScoreWeights({**settings.task_weights, "diversity": settings.diversity or 0.0})
    if settings.diversity is None:
        chosen = choose_diversity(ranker.model, ranking_set, vectors, weights)
        console.print(f"diversity of strength {chosen:g} costs less than {ALLOWED_LOSS:.1%}")
        weights = weights.with_diversity(chosen)
    if fatigue:
        console.print(f"fatigue of strength {fatigue:.2f} fits what was shown again")
        weights = ScoreWeights({**weights.root, "fatigue": fatigue})
    stage_ranker(release, ranker.model, inputs.data, weights, ranking_set.watches.rows.shape[1])
    return ranker


def _evaluated(inputs: Inputs, ranker: TrainedRanker) -> dict[str, float]:
    """Return the staged release's metrics; write its report if there are held-out watches."""
    run = inputs.run
    metrics = flat(
        {
            "held_out": vars(ranker.held_out["chosen"]),
            "validation_calibration_error": ranker.calibration_error,
        }
    )
    # A report of an earlier run doesn't describe this release.
    shutil.rmtree(run.report, ignore_errors=True)
    if (inputs.watches["part"] == "test").any():
        metrics |= flat(evaluate_release(run.draft, inputs.watches, inputs.repo, run))
    return metrics


def fit_to_every_watch(
    home: Home, measuring: Home, dataset: Dataset, settings: Profile, console: Console
) -> Manifest:
    """Fit to every watch, stage the release in `home`, and return its manifest.

    `measuring` is the home of the measured fit, whose release becomes part of this one; `settings`
    are that fit's.

    Raises:
        TrainingInterruptedError: Ctrl-C; the same call resumes.
        VireoError: any other error that the user can fix.
    """
    measured = Run(measuring.run(dataset.info.name))
    twin = Manifest.read(measured.release)
    inputs = Inputs.of(home, dataset, settings, "none", console)
    run, made_of = inputs.run, fingerprint(inputs.fingerprint, twin.release_id)
    if manifest := run.finished(made_of):
        console.print(f"nothing to do: {manifest.release_id} goes on from {twin.release_id}")
        return manifest
    config = refit_config(settings.retrieval)
    model = train_retrieval(
        inputs.data, config, run.checkpoints, console, start=measured.checkpoints
    )
    staged = inputs.stage_retrieval(model, twin.quotas)
    take_ranker(staged, measured.release, inputs.data)
    metrics = add_measured(run.draft, measured.release)
    manifest = finish_release(run.draft, run.release, metrics)
    run.mark_finished(made_of, manifest)
    return manifest


def refit_config(config: RetrievalConfig) -> RetrievalConfig:
    """Return the settings that continue a training with `config`."""
    return replace(
        config,
        epochs=max(1, round(config.epochs * REFIT_EPOCHS)),
        min_steps=round(config.min_steps * REFIT_EPOCHS),
        max_minutes=None,
        learning_rate=config.learning_rate * REFIT_RATE,
        constant_share=0.0,
    )


def add_measured(folder: Path, measured: Path) -> dict[str, float]:
    """Add the measured twin to a staged release and return its metrics.

    The files of `measured`, the twin's finished release, are hard-linked if possible, else copied.

    Raises:
        ReleaseError: the twin is missing or can't be read.
    """
    manifest = Manifest.read(measured)
    place = folder / layout.MEASURED
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(measured, place, copy_function=_link)
    staged = Manifest.read(folder)
    staged.model_copy(update={"measured": manifest.release_id}).write(folder)
    return dict(manifest.metrics)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def train_all(
    home: Home,
    dataset: str,
    profile: str = "demo",
    *,
    seed: int | None = None,
    refit: bool = True,
    fresh: bool = False,
    force: bool = False,
    log: ShownLog | None = None,
    console: Console | None = None,
) -> Manifest:
    """Train on a data set, stage the release, and return its manifest.

    Args:
        home: holds data sets, features, runs and releases.
        dataset: name of an imported data set.
        profile: name of the settings.
        seed: replaces the profile's random seed.
        refit: continue on every watch after the first fit is measured. If False, the measured
            release itself is staged, which has never seen the held-out watches.
        fresh: discard the results of earlier runs.
        force: stage the release even if its towers are worse than popularity.
        log: what was shown, for the ranker to learn from.
        console: where the steps are announced.

    Raises:
        DatasetMissingError: there is no such data set.
        TrainingInterruptedError: Ctrl-C; the same call resumes.
        VireoError: another process trains on it, or any other error that the user can fix.
    """
    console = console or Console(stderr=True, highlight=False)
    settings = seeded(load_profile(profile), seed)
    tables = load_dataset(home, dataset)
    keep_private(home.root)
    measuring = measuring_home(home)
    with only_training(home, dataset), heartbeat(console, f"training on {dataset}"):
        if fresh:
            for each in (home, measuring):
                Run(each.run(dataset)).forget()
        console.rule("first fit: each viewer's last watch is held out, to measure on")
        manifest = fit(measuring, tables, settings, console, force=force, log=log)
        if not refit:
            # Served features cover every watch, whatever the models were trained on.
            ensure_features(home, tables, "none", console)
            Run(home.run(dataset)).stage_copy(measuring.staged_release(dataset))
            return manifest
        console.rule("second fit: it goes on with every watch, to serve")
        return fit_to_every_watch(home, measuring, tables, settings, console)


def seeded(profile: Profile, seed: int | None) -> Profile:
    """Return the profile with this random seed, or its own if None."""
    if seed is None:
        return profile
    return replace(
        profile,
        retrieval=replace(profile.retrieval, seed=seed),
        ranking=replace(profile.ranking, seed=seed),
    )
