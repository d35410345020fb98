"""Measures two releases on the same held-out watches, in one run and with the same code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from server.candidate.pipeline import CandidatePipeline, CandidateQuery
from server.candidate.release import CandidateRelease
from server.features.keys import video_keys
from server.features.viewer import ViewerFeatures
from server.ranking.pipeline import RankingPipeline
from server.ranking.release import RankingRelease
from training.evaluation.chain import (
    ChainAnswers,
    features_before_test,
    list_ranks,
    rank_all,
    run_chain,
)
from training.evaluation.comparison import gains, hits
from training.release.gate import Measured

_BINS = 10
_TIMED_VIEWERS = 200
_WARM_UP = 5

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LoadedRelease:
    """A release as both kinds of pod load it."""

    candidates: CandidateRelease
    ranking: RankingRelease

    @staticmethod
    def load(folder: Path) -> LoadedRelease:
        """Loads it, and replays its goldens; raises ReleaseError where a pod would refuse it."""
        loaded = LoadedRelease(CandidateRelease.load(folder), RankingRelease.load(folder))
        loaded.candidates.replay_goldens()
        loaded.ranking.replay_goldens()
        return loaded


def measure(
    now: LoadedRelease,
    candidate: LoadedRelease,
    watches: pd.DataFrame,
    repo: Path,
    *,
    count: int,
    most_viewers: int,
) -> tuple[Measured, Measured] | None:
    """Asks both releases for the test viewers' best.

    A viewer whose held-out video one of the two doesn't have is left out: it would be counted
    as that release's mistake, and says nothing of its models.

    Args:
        now: the current release.
        candidate: the one that may follow it.
        watches: the split, as in `training.features.watches.WATCHES`.
        repo: the Feast repository.
        count: how many candidates are ranked for each viewer.
        most_viewers: how many viewers to ask for; of more, so many are drawn, the same always.

    Returns:
        What the current one did, and the candidate; None where no viewer can be asked for.
    """
    test = watches[watches["part"] == "test"]
    keys = video_keys(test["video_id"].tolist())
    known = [release.candidates.rows.find(keys) >= 0 for release in (now, candidate)]
    test = test[known[0] & known[1]]
    if not len(test):
        return None
    if len(test) > most_viewers:
        test = test.sample(most_viewers, random_state=0).sort_index()
    features = features_before_test(test, repo)
    keys = video_keys(test["video_id"].tolist())
    seconds = _inference_seconds((now, candidate), features[:_TIMED_VIEWERS], count)
    answered = [
        _measured(release, features, keys, count, spent)
        for release, spent in zip((now, candidate), seconds, strict=True)
    ]
    return answered[0], answered[1]


def _measured(
    release: LoadedRelease,
    features: Sequence[ViewerFeatures],
    keys: npt.NDArray[np.int64],
    count: int,
    seconds: Float64Array,
) -> Measured:
    """What one release does for these viewers, whose held-out videos have these keys."""
    targets = release.candidates.rows.find(keys)
    answers = run_chain(release.candidates, release.ranking, features, targets, count)
    ranks = list_ranks(answers.ranked, targets)
    predicted, observed = _by_bin(answers, targets)
    return Measured(
        release_id=release.candidates.manifest.release_id,
        gains=gains(ranks, 10),
        hits=hits(ranks, 100),
        slates=answers.ranked[:, :10],
        videos=len(release.candidates.keys),
        predicted=predicted,
        observed=observed,
        predictions=(answers.ranked >= 0).sum(1).astype(np.float64),
        seconds=seconds,
    )


def _by_bin(
    answers: ChainAnswers, targets: npt.NDArray[np.int64]
) -> tuple[Float64Array, Float64Array]:
    """Watch probabilities and watches, summed by viewer and bin of probability, both [v, b].

    Their sums over viewers give the same error as `metrics.expected_calibration_error`.
    """
    viewers = len(targets)
    real = answers.ranked >= 0
    bins = np.minimum((answers.watch * _BINS).astype(np.int64), _BINS - 1)
    places = (np.arange(viewers)[:, None] * _BINS + bins)[real]
    watched = (answers.ranked == targets[:, None])[real]

    def summed(values: npt.NDArray[Any]) -> Float64Array:
        sums = np.bincount(places, values, minlength=viewers * _BINS)
        return sums.astype(np.float64).reshape(viewers, _BINS)

    return summed(answers.watch[real]), summed(watched)


def _inference_seconds(
    releases: Sequence[LoadedRelease], features: Sequence[ViewerFeatures], count: int
) -> list[Float64Array]:
    """Seconds that viewer tower and ranker take for each viewer, float64[t] of each release.

    Of the processor's time, which both take in this thread alone: what else has it doesn't count.
    The releases take turns, and turns at being first, so that what slows it meets both alike.
    """
    asked = [_timed_call(release, count) for release in releases]
    spent = np.zeros((len(releases), len(features)))
    for viewer in features[:_WARM_UP]:
        for call in asked:
            call(viewer)
    for place, viewer in enumerate(features):
        order = range(len(releases)) if place % 2 else reversed(range(len(releases)))
        for each in order:
            spent[each, place] = asked[each](viewer)
    return list(spent)


def _timed_call(release: LoadedRelease, count: int) -> Callable[[ViewerFeatures], float]:
    retrieval = CandidatePipeline(release.candidates, fail_open=False)
    ranker = RankingPipeline(release.ranking)

    def call(viewer: ViewerFeatures) -> float:
        found = retrieval.retrieve(CandidateQuery(viewer=viewer, count=count))
        start = time.thread_time()
        release.candidates.viewer_vector(viewer)
        if len(found.keys):
            rank_all(ranker, viewer, found)
        return time.thread_time() - start

    return call
