"""The measured fit of both models: from a data set's features to a staged release, in five steps.

Each step stores its result under a fingerprint of its inputs, so that an interrupted run resumes,
and a run whose data or settings changed starts afresh.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from vireo.server.candidate.release import CandidateRelease
from vireo.server.home import Home
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.memory import return_memory
from vireo.server.releases.weights import Quotas, ScoreWeights
from vireo.training.data.dataset import Dataset
from vireo.training.evaluation.diversity import ALLOWED_LOSS, choose_diversity
from vireo.training.evaluation.held_out import last_held_out
from vireo.training.evaluation.report import flat
from vireo.training.evaluation.run import evaluate_release
from vireo.training.evaluation.sources import FIT_VIEWERS, Proposals, fit_quotas
from vireo.training.inputs import Inputs, ensure_features
from vireo.training.profile import Profile
from vireo.training.ranking.storage import load_ranking_set, save_ranking_set
from vireo.training.ranking.train import TrainedRanker, calibrated, fit_ranker
from vireo.training.ranking.training_set import RankingSet, build_ranking_set
from vireo.training.release.stage import finish_release, stage_ranker
from vireo.training.retrieval.train import train_retrieval
from vireo.training.retrieval.validation import check_beats_popularity
from vireo.training.run import fingerprint


def fit(
    home: Home, dataset: Dataset, settings: Profile, console: Console, *, force: bool = False
) -> Manifest:
    """Fit both models with each viewer's last watch held out, and evaluate them on it.

    Stages the release in `home` and returns its manifest.

    Raises:
        TrainingInterruptedError: Ctrl-C; the same call resumes.
        WorseThanPopularityError: the towers are worse than popularity, unless `force`.
        VireoError: any other error that the user can fix.
    """
    inputs = Inputs.of(home, dataset, settings, ensure_features(home, dataset, "last", console))
    ranking_inputs = fingerprint(
        inputs.fingerprint, inputs.split.outcomes, asdict(settings.ranking)
    )
    manifest = inputs.run.finished(ranking_inputs)
    if manifest:
        console.print(f"nothing to do: {manifest.release_id} was trained with these settings")
        return manifest
    release = _retrieval(inputs, console, force)
    console.rule("3 of 5  the ranker's training set, drawn by the candidate pipeline")
    ranking_set = _ranking_set(inputs, release, ranking_inputs)
    console.rule("4 of 5  the ranker")
    ranker = _ranker(inputs, release, ranking_set, ranking_inputs, console)
    del release, ranking_set  # Evaluation loads the release anew, and needs no training set.
    console.rule("5 of 5  evaluation and release")
    metrics = _evaluated(inputs, ranker)
    inputs.run.unmark_draft()
    manifest = finish_release(inputs.run.draft, inputs.run.release, metrics)
    inputs.run.mark_finished(ranking_inputs, manifest)
    return manifest


def _retrieval(inputs: Inputs, console: Console, force: bool) -> CandidateRelease:
    """Return the staged retrieval part; train it unless an earlier run did."""
    run = inputs.run
    release = run.drafted(inputs.fingerprint)
    if release is not None:
        return release
    console.rule("1 of 5  retrieval: the two towers")
    model = train_retrieval(inputs.data, inputs.settings.retrieval, run.checkpoints, console)
    check_beats_popularity(model, inputs.data, console, force=force)
    console.rule("2 of 5  exporting the viewer tower, building index and tables")
    run.unmark_draft()
    release = inputs.stage_retrieval(model)
    del model
    return_memory()
    candidates = inputs.settings.ranking.candidates
    release = with_quotas(release, inputs.watches, inputs.repo, candidates, console)
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


def _ranking_set(inputs: Inputs, release: CandidateRelease, made_of: str) -> RankingSet:
    """Return the ranker's training set, from disk if it was built from these inputs."""
    settings, run = inputs.settings.ranking, inputs.run
    data = load_ranking_set(run.ranking_set, made_of)
    if data is None:
        data = build_ranking_set(inputs.watches, inputs.repo, release, settings)
        save_ranking_set(run.ranking_set, data, made_of)
    return data


def _ranker(
    inputs: Inputs,
    release: CandidateRelease,
    ranking_set: RankingSet,
    made_of: str,
    console: Console,
) -> TrainedRanker:
    """Train the ranker, stage it with its score weights, and return it."""
    settings = inputs.settings.ranking
    vectors = release.vectors.astype(np.float32, copy=False)
    attributes = len(inputs.data.vocabulary)
    # The trainer, which holds a copy of the vectors, is freed here.
    ranker = calibrated(
        *fit_ranker(
            ranking_set,
            vectors,
            release.manifest.feature_schema,
            attributes,
            settings,
            inputs.run.checkpoints,
            made_of,
            console,
        )
    )
    console.print(ranker.described())
    weights = ScoreWeights({**settings.task_weights, "diversity": settings.diversity or 0.0})
    if settings.diversity is None:
        chosen = choose_diversity(ranker.model, ranking_set, vectors, weights)
        console.print(f"diversity of strength {chosen:g} costs less than {ALLOWED_LOSS:.1%}")
        weights = weights.with_diversity(chosen)
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
        found = evaluate_release(
            run.draft, inputs.watches, inputs.repo, run.checkpoints, run.report
        )
        metrics |= flat(found)
    return metrics
