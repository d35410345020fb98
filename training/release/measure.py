"""Measures two releases on the same held-out watches, in one run and with the same code."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from server.candidate.pipeline import CandidatePipeline, CandidateQuery
from server.candidate.release import CandidateRelease
from server.features.keys import video_keys
from server.features.viewer import ViewerFeatures
from server.ranking.pipeline import RankingPipeline
from server.ranking.release import RankingRelease
from server.releases.manifest import Manifest
from training.evaluation.chain import (
    ChainAnswers,
    features_before_test,
    list_ranks,
    rank_all,
    run_chain,
)
from training.evaluation.metrics import gains, hits
from training.release.gate_measures import Measured
from training.release.predictions import Predictions, in_both

_TIMED_VIEWERS = 200
_WARM_UP = 5
_NO_KEY = np.iinfo(np.int64).min

BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LoadedRelease:
    """A release as both kinds of pod load it."""

    candidates: CandidateRelease
    ranking: RankingRelease

    @property
    def manifest(self) -> Manifest:
        """Return the release's manifest."""
        return self.candidates.manifest

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
    most_viewers: int,
) -> tuple[Measured, Measured] | None:
    """Ask both releases for the test viewers' best, as many candidates as each states.

    A viewer whose held-out video one of the two doesn't have is left out: it would be counted
    as that release's mistake, and says nothing of its models.

    Args:
        now: the current release.
        candidate: the one that may follow it.
        watches: the split, as in `training.features.watches.WATCHES`.
        repo: the Feast repository.
        most_viewers: how many viewers to ask for; of more, so many are drawn, the same always.

    Returns:
        What the current one did, and the candidate; None if no viewer can be asked for.
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
    asked = [_ask(release, features, keys) for release in (now, candidate)]
    seconds = _inference_seconds((now, candidate), features[:_TIMED_VIEWERS])
    liked = test["liked"].to_numpy(bool)
    held_out = _fingerprint(test)
    first, second = (
        Measured(
            release_id=each.release.candidates.manifest.release_id,
            held_out=held_out,
            gains=gains(each.ranks, 10),
            hits=hits(each.ranks, 100),
            slates=each.answers.ranked[:, :10],
            videos=len(each.release.candidates.keys),
            predictions={
                "watch": each.watch_predictions(compared),
                "like": each.like_predictions(liked),
            },
            seconds=spent,
        )
        for each, compared, spent in zip(
            asked, in_both(asked[0].keys, asked[1].keys), seconds, strict=True
        )
    )
    return first, second


@dataclass(frozen=True)
class _Asked:
    """A release's answers for v viewers whose held-out videos are at `targets`, int64[v]."""

    release: LoadedRelease
    answers: ChainAnswers
    targets: Int64Array

    @cached_property
    def ranks(self) -> Int64Array:
        """Return the place of each held-out video."""
        return list_ranks(self.answers.ranked, self.targets)

    @cached_property
    def real(self) -> BoolArray:
        """Return where there is a candidate, bool[v, c]."""
        return self.answers.ranked >= 0

    @cached_property
    def keys(self) -> Int64Array:
        """Return the keys of the candidates, best first, int64[v, c]; _NO_KEY for none."""
        return np.where(self.real, self.release.candidates.keys[self.answers.ranked], _NO_KEY)

    def watch_predictions(self, compared: BoolArray) -> Predictions:
        """Return how the watch probabilities of its candidates came true."""
        watched = self.answers.ranked == self.targets[:, None]
        return Predictions.of(self.answers.watch, watched, self.real, compared & self.real)

    def like_predictions(self, liked: BoolArray) -> Predictions:
        """Return how the like probabilities of the held-out videos came true."""
        everyone = np.ones((len(liked), 1), bool)
        return Predictions.of(self.answers.target_like[:, None], liked[:, None], everyone, everyone)


def _ask(release: LoadedRelease, features: Sequence[ViewerFeatures], keys: Int64Array) -> _Asked:
    """Return what a release answers viewers whose held-out videos have these keys."""
    targets = release.candidates.rows.find(keys)
    count = release.candidates.manifest.candidates
    answers = run_chain(release.candidates, release.ranking, features, targets, count)
    return _Asked(release, answers, targets)


def _fingerprint(test: pd.DataFrame) -> str:
    """Return the SHA-256 of who is asked for, and of the watches that are held out."""
    columns = test[["viewer_id", "video_id", "time"]].astype(str)
    return hashlib.sha256(columns.to_csv(index=False).encode()).hexdigest()


def _inference_seconds(
    releases: Sequence[LoadedRelease], features: Sequence[ViewerFeatures]
) -> list[Float64Array]:
    """Seconds that viewer tower and ranker take for each viewer, float64[t] of each release.

    Of the processor's time, which both take in this thread alone: what else has it doesn't count.
    The releases take turns, and turns at being first, so that what slows it meets both alike.
    """
    asked = [_timed_call(release) for release in releases]
    spent = np.zeros((len(releases), len(features)))
    for viewer in features[:_WARM_UP]:
        for call in asked:
            call(viewer)
    for place, viewer in enumerate(features):
        order = range(len(releases)) if place % 2 else reversed(range(len(releases)))
        for each in order:
            spent[each, place] = asked[each](viewer)
    return list(spent)


def _timed_call(release: LoadedRelease) -> Callable[[ViewerFeatures], float]:
    retrieval = CandidatePipeline(release.candidates, fail_open=False)
    ranker = RankingPipeline(release.ranking)
    count = release.candidates.manifest.candidates

    def call(viewer: ViewerFeatures) -> float:
        found = retrieval.retrieve(CandidateQuery(viewer=viewer, count=count))
        start = time.thread_time()
        release.candidates.viewer_vector(viewer)
        if len(found.keys):
            rank_all(ranker, viewer, found)
        return time.thread_time() - start

    return call
