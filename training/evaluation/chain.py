"""The whole chain in process over the test viewers: the responses that serving would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from threadpoolctl import threadpool_limits

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.ranking.pipeline import RankingPipeline, RankingQuery
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.pipeline import (
    CandidatePipeline,
    CandidateQuery,
    RetrievedCandidates,
)
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.signals import OUTCOMES, SCORES
from vireo.training.evaluation.systems import TestViewers
from vireo.training.features.publication import of_the_past
from vireo.training.features.statistics import Snapshots, just_before
from vireo.training.metrics import auc, calibration_measures
from vireo.training.progress import tracked

FloatArray = npt.NDArray[np.floating]
_BINS = 10


@dataclass(frozen=True)
class ChainAnswers:
    """Responses of the whole chain to v viewers."""

    ranked: Int64Array
    """Rows of all that was retrieved, in the ranker's order, int64[v, c], -1 for none."""
    scores: Float32Array
    """Score of each of `ranked`, float32[v, c], 0 for none."""
    watch: Float32Array
    """Watch probability of each of `ranked`, float32[v, c], 0 for none."""
    target_outcomes: Float32Array
    """Probabilities of OUTCOMES of each viewer's target, float32[v, t]; NaN of those that the
    release doesn't predict."""


def tower_scores(release: CandidateRelease, viewers: Sequence[ViewerFeatures]) -> Float32Array:
    """Return the two-tower score of every video for each viewer, float32[v, n].

    The tower runs on one viewer at a time, as in serving: batches round differently.
    """
    vectors = np.stack([release.viewer_vector(viewer) for viewer in viewers])
    return vectors @ release.vectors.T.astype(np.float32, copy=False)


def run_chain(
    candidates: CandidateRelease,
    ranking: RankingRelease,
    viewers: Sequence[ViewerFeatures],
    targets: Int64Array,
    count: int,
    repo: Path | None,
) -> ChainAnswers:
    """Run both pipelines on `count` candidates for each viewer; predict each target's outcomes.

    Args:
        candidates: the release, as a candidate pod loads it.
        ranking: the same, as a ranking pod loads it.
        viewers: the viewers, each as of a request at `asked_at`.
        targets: row of each viewer's held-out video, int64[v].
        count: number of candidates.
        repo: the feature folder with VIDEO_FEATURES as of each request, which the ranker's
            training set has too; then videos published later are no candidates, apart from the
            target. None for those of the release, and the videos of now, as pods have them at any
            time.
    """
    embargo = None
    if repo is not None:
        candidates, embargo = of_the_past(candidates)
    retrieval = CandidatePipeline(candidates, fail_open=False)
    shape = (len(viewers), count)
    ranked = np.full(shape, -1, np.int64)
    scores, watch = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    outcomes = np.zeros((len(viewers), len(OUTCOMES)), np.float32)
    snapshots = Snapshots(repo, ranking.ids) if repo else None
    asked = just_before(np.array([viewer.asked_at for viewer in viewers], np.int64))
    before = snapshots.before(asked) if snapshots else np.zeros(len(viewers), np.int64)

    @lru_cache(maxsize=1)
    def ranker_at(snapshot: int) -> RankingPipeline:
        if snapshots is None:
            return RankingPipeline(ranking)
        table = replace(ranking.table, features=snapshots.features(snapshot))
        return RankingPipeline(replace(ranking, table=table))

    by_time = np.argsort(before, kind="stable").tolist()
    # As pods have it: for products as small as a request's, threads wait for each other.
    with threadpool_limits(1, user_api="blas"):
        for place in tracked(by_time, "asking the chain", Console(stderr=True)):
            viewer, ranker = viewers[place], ranker_at(int(before[place]))
            if embargo is not None:
                embargo.ask(viewer.asked_at, int(targets[place]))
            found = retrieval.retrieve(CandidateQuery(viewer=viewer, count=count))
            outcomes[place] = _outcomes(ranker, viewer, candidates.keys[targets[place]])
            size = len(found.keys)
            if not size:  # Every video of a small catalogue was watched.
                continue
            best = ranker.rank(ranking_query(viewer, found))
            ranked[place, :size] = best.rows
            scores[place, :size], watch[place, :size] = best.scores, best.tasks["watch"]
    return ChainAnswers(ranked, scores, watch, outcomes)


def ranking_query(viewer: ViewerFeatures, found: RetrievedCandidates) -> RankingQuery:
    """Return the query that ranks everything that was retrieved for a viewer."""
    return RankingQuery(
        viewer=viewer,
        keys=found.keys,
        scores=found.scores,
        source_masks=found.source_masks,
        page_size=len(found.keys),
    )


def _outcomes(ranker: RankingPipeline, viewer: ViewerFeatures, key: np.int64) -> list[float]:
    """Return a video's probabilities of OUTCOMES, which don't depend on how it was retrieved."""
    answer = ranker.rank(
        RankingQuery(
            viewer=viewer,
            keys=np.array([key], np.int64),
            scores={score.name: np.array([score.neutral], np.float32) for score in SCORES},
            source_masks=np.zeros(1, np.uint32),
            page_size=1,
        )
    )
    unknown = np.full(1, np.nan)
    return [float(answer.tasks.get(task.name, unknown)[0]) for task in OUTCOMES]


def tasks(
    answers: ChainAnswers, viewers: TestViewers
) -> dict[str, tuple[FloatArray, BoolArray, Int64Array]]:
    """Return predicted probabilities, outcomes and numbers of the viewers, by task.

    `watch` covers every candidate of every viewer; OUTCOMES the held-out videos, all of them
    watched, whose outcome is known. Those that the data or the release lacks are left out.
    """
    real = answers.ranked >= 0
    hits = (answers.ranked == viewers.targets[:, None])[real]
    found = {"watch": (answers.watch[real], hits, np.nonzero(real)[0])}
    for column, task in enumerate(OUTCOMES):
        labels, predicted = viewers.outcomes[:, column], answers.target_outcomes[:, column]
        known = np.flatnonzero(~np.isnan(labels) & ~np.isnan(predicted))
        if len(known):
            found[task.name] = (predicted[known], labels[known] > 0, known)
    return found


def ranker_measures(answers: ChainAnswers, viewers: TestViewers) -> dict[str, float]:
    """Return AUC and calibration of each task, and the share of targets that were retrieved.

    The AUC of a task whose labels are all equal is undefined and left out.
    """
    found = (answers.ranked == viewers.targets[:, None]).any(1)
    measures = {"candidate_recall": float(found.mean())}
    for task, (predicted, happened, numbers) in tasks(answers, viewers).items():
        measures[f"{task}_auc"] = auc(predicted, happened)
        measures |= calibration_measures(task, predicted, happened, numbers)
    return {name: value for name, value in measures.items() if np.isfinite(value)}


def calibration(answers: ChainAnswers, viewers: TestViewers) -> dict[str, list[dict[str, float]]]:
    """Return predicted and observed rate of each task, in ten bins of equally many predictions."""
    return {
        task: [
            {
                "predicted": float(predicted[part].mean()),
                "observed": float(happened[part].mean()),
                "n": len(part),
            }
            for part in np.array_split(np.argsort(predicted), _BINS)
            if len(part)
        ]
        for task, (predicted, happened, _) in tasks(answers, viewers).items()
    }
