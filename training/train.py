"""The whole of training: towers, ranker, report and release, from a data set.

Each step leaves its result on disk under a fingerprint of all that went in, so that a run that
was interrupted goes on where it stopped, and one whose data or settings changed starts afresh.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from server.candidate.release import CandidateRelease
from server.home import Home
from server.releases.manifest import FORMAT_VERSION, FeatureSchema, Manifest, Quotas, ScoreWeights
from training.data.dataset import Dataset, load_dataset
from training.data.split import VALIDATION_WATCHES, Holdout
from training.evaluation.diversity import ALLOWED_LOSS, choose_diversity
from training.evaluation.leaks import check_inputs, check_made
from training.evaluation.report import flat
from training.evaluation.run import evaluate_release
from training.features.build import build_features
from training.features.progress import progress_bars
from training.features.watches import FeaturesMissingError, Split, load_watches
from training.profile import Profile, load_profile
from training.ranking.config import RankingConfig
from training.ranking.storage import load_ranking_set, save_ranking_set
from training.ranking.train import train_ranker
from training.ranking.training_set import RankingSet, build_ranking_set
from training.release.stage import Origin, finish_release, stage_ranker, stage_retrieval
from training.retrieval.data import RetrievalData
from training.retrieval.distributed import Processes
from training.retrieval.ensemble import train_towers
from training.retrieval.sequences import SequenceFile
from training.retrieval.train import TrainingInterruptedError
from training.run import Run, fingerprint


def train_all(
    home: Home,
    dataset: str,
    profile: str = "demo",
    *,
    seed: int | None = None,
    holdout: Holdout | None = None,
    fresh: bool = False,
    console: Console | None = None,
) -> Manifest:
    """Trains on a data set and stages the release, whose manifest is returned.

    Started by torchrun, the processes share the towers' training; the first does everything
    else, and the others end with it: `SystemExit` is how this function leaves them.

    Args:
        home: where everything lies.
        dataset: name of an imported data set.
        profile: name of the settings.
        seed: of everything random, in place of the profile's.
        holdout: "last" keeps each viewer's last watch from training, to test on; "none"
            keeps nothing; by default as the features were built, else "last".
        fresh: forget what earlier runs have done.
        console: where the steps are announced.

    Raises:
        DatasetMissingError: there is no such data set.
        TrainingInterruptedError: Ctrl-C; the same call goes on from there.
        LeakError: something of a test watch, or of after it, would be learned from.
        VireoError: anything else that the user can mend.
    """
    console = console or Console(stderr=True, highlight=False)
    settings = _seeded(load_profile(profile), seed)
    # The exporter warns of every package that it could have used.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    processes = Processes.joined()
    if not processes.leads:
        _train_along(home, dataset, settings, processes)
        raise SystemExit(0)
    tables = load_dataset(home, dataset)
    split = _ensure_features(home, tables, holdout, console)
    watches, repo = load_watches(home, dataset), home.features(dataset)
    run = Run(home.run(dataset))
    if fresh:
        shutil.rmtree(run.folder, ignore_errors=True)
    data = RetrievalData.stream(
        repo / "watches.parquet", tables.videos, tables.viewers, run.sequences
    )
    quotas = Quotas()
    retrieval = settings.retrieval
    for_retrieval = fingerprint(
        FORMAT_VERSION,
        # Whatever the members are: the retrieval settings below have their number.
        FeatureSchema.ours(retrieval.history_limit, retrieval.dimension).model_dump(),
        quotas.model_dump(),
        split.model_dump(),
        data.fingerprint(),
        asdict(retrieval),
    )
    for_ranking = fingerprint(for_retrieval, asdict(settings.ranking))

    manifest = run.finished(for_ranking)
    release = None if manifest else run.drafted(for_retrieval)
    if not manifest:
        check_inputs(watches, data, repo)
    processes.leader_says(manifest is None and release is None)
    if manifest:
        console.print(f"nothing to do: {manifest.release_id} was trained with these settings")
        return manifest

    if release is None:
        console.rule("1 of 5  retrieval: the two towers")
        model = train_towers(data, settings.retrieval, run.checkpoints, console, processes)
        processes.leave()
        console.rule("2 of 5  exporting the viewer tower, building index and tables")
        origin = Origin(dataset, split.data_fingerprint, split.holdout)
        run.unmark_draft()
        release = stage_retrieval(run.draft, model, data, tables, repo, origin, quotas)
        run.mark_draft(for_retrieval)
    console.rule("3 of 5  the ranker's training set, drawn by the candidate pipeline")
    ranking_set = _ranking_set(run, watches, repo, release, settings.ranking, for_ranking)
    check_made(watches, data, run.draft, ranking_set, settings.ranking.viewers)
    console.rule("4 of 5  the ranker")
    vectors, attributes = release.vectors.astype(np.float32, copy=False), len(data.vocabulary)
    ranker = train_ranker(
        ranking_set, vectors, attributes, settings.ranking, run.checkpoints, for_ranking, console
    )
    console.print(ranker.described())
    weights = ScoreWeights(
        watch=settings.ranking.watch_weight,
        like=settings.ranking.like_weight,
        diversity=settings.ranking.diversity or 0.0,
    )
    if settings.ranking.diversity is None:
        chosen = choose_diversity(ranker.model, ranking_set, vectors, weights)
        console.print(f"diversity of strength {chosen:g} costs less than {ALLOWED_LOSS:.1%}")
        weights = weights.model_copy(update={"diversity": chosen})
    stage_ranker(run.draft, ranker.model, data, weights)
    console.rule("5 of 5  evaluation and release")
    metrics = flat(
        {
            "held_out": vars(ranker.held_out["chosen"]),
            "validation_calibration_error": ranker.calibration_error,
        }
    )
    # A report of an earlier run would say nothing of this release.
    shutil.rmtree(run.report, ignore_errors=True)
    if (watches["part"] == "test").any():
        count = settings.ranking.candidates
        evaluation = evaluate_release(run.draft, watches, repo, run.checkpoints, run.report, count)
        metrics |= flat(evaluation.metrics)
    run.unmark_draft()
    manifest = finish_release(run.draft, run.release, metrics)
    run.mark_finished(for_ranking, manifest)
    return manifest


def _train_along(home: Home, dataset: str, settings: Profile, processes: Processes) -> None:
    """The part of a process that doesn't lead: the towers, once the first has the data ready."""
    if not processes.leader_says():
        return
    tables = ("videos", "viewers")
    videos, viewers = (pd.read_parquet(home.data(dataset) / f"{name}.parquet") for name in tables)
    run = Run(home.run(dataset))
    data = RetrievalData.open(SequenceFile(run.sequences), videos, viewers)
    with contextlib.suppress(TrainingInterruptedError):  # The first one says so.
        train_towers(data, settings.retrieval, run.checkpoints, processes=processes)
        processes.leave()


def _seeded(profile: Profile, seed: int | None) -> Profile:
    if seed is None:
        return profile
    return replace(
        profile,
        retrieval=replace(profile.retrieval, seed=seed),
        ranking=replace(profile.ranking, seed=seed),
    )


def _ensure_features(
    home: Home, dataset: Dataset, holdout: Holdout | None, console: Console
) -> Split:
    """The split of the features, which are built where missing or made of other data."""
    try:
        split = Split.load(home, dataset.name)
    except FeaturesMissingError:
        split = None
    wanted = Split(
        holdout=holdout or (split.holdout if split else "last"),
        data_fingerprint=dataset.fingerprint,
        validation_watches=VALIDATION_WATCHES,
    )
    if split != wanted:
        console.rule(f"features of {dataset.name}")
        with progress_bars(console) as progress:
            build_features(home, dataset.name, wanted.holdout, progress)
    return wanted


def _ranking_set(
    run: Run,
    watches: pd.DataFrame,
    repo: Path,
    release: CandidateRelease,
    config: RankingConfig,
    inputs: str,
) -> RankingSet:
    """The ranker's training set, from disk where it was made of these inputs."""
    data = load_ranking_set(run.ranking_set, inputs)
    if data is None:
        data = build_ranking_set(watches, repo, release, config)
        save_ranking_set(run.ranking_set, data, inputs)
    return data
