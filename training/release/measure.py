"""Measurement of releases on the same held-out watches, in one run with the same code."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from vireo.server.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from vireo.server.features.keys import video_keys
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.ranking.pipeline import requested, scored
from vireo.server.recommend.ranking.release import Ranking, RankingRelease
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.gate_measures import Measured, Predictions, in_both
from vireo.server.releases.manifest import Manifest
from vireo.server.signals import OUTCOMES
from vireo.training.evaluation.chain import ChainAnswers, ranking_query, run_chain
from vireo.training.evaluation.systems import list_ranks
from vireo.training.evaluation.viewers import features_before_test
from vireo.training.features.watches import outcome_labels
from vireo.training.metrics import gains, hits

_TIMED_VIEWERS = 200
_WARM_UP = 5
_NO_KEY = np.iinfo(np.int64).min


@dataclass(frozen=True)
class LoadedRelease:
    """A release as candidate and ranking pods load it."""

    candidates: CandidateRelease
    ranking: RankingRelease

    @property
    def manifest(self) -> Manifest:
        """The release's manifest."""
        return self.candidates.manifest

    @staticmethod
    def load(folder: Path) -> LoadedRelease:
        """Load a release and replay its goldens; raise ReleaseError if a pod would refuse it."""
        loaded = LoadedRelease(CandidateRelease.load(folder), RankingRelease.load(folder))
        loaded.candidates.replay_goldens()
        loaded.ranking.replay_goldens()
        return loaded


def measure(
    releases: Sequence[LoadedRelease], watches: pd.DataFrame, repo: Path, *, max_viewers: int
) -> list[Measured] | None:
    """Measure releases on the same test viewers, each with its own number of candidates.

    The first two are compared: the log loss of watches is that of candidates which both have. A
    viewer whose held-out video is missing from any catalogue is excluded: it would count as that
    release's miss, but says nothing about its models. More than `max_viewers` are sampled
    deterministically.

    Returns:
        Measurements of each release; None if no viewer is left.
    """
    test = watches[watches["part"] == "test"]
    keys = video_keys(test["video_id"].tolist())
    test = test[np.all([each.candidates.rows.find(keys) >= 0 for each in releases], axis=0)]
    if not len(test):
        return None
    if len(test) > max_viewers:
        test = test.sample(max_viewers, random_state=0).sort_index()
    features = features_before_test(test, repo)
    keys = video_keys(test["video_id"].tolist())
    asked = [_ask(release, features, keys, repo) for release in releases]
    compared = [*in_both(asked[0].keys, asked[1].keys), *(each.real for each in asked[2:])]
    seconds = _inference_seconds(releases, features[:_TIMED_VIEWERS])
    outcomes = outcome_labels(test)
    for each in asked:  # what one of them doesn't predict can't be compared
        outcomes[np.isnan(each.answers.target_outcomes)] = np.nan
    held_out = _fingerprint(test)
    return [
        Measured(
            held_out=held_out,
            gains=gains(each.ranks, 10),
            hits=hits(each.ranks, 100),
            slates=each.answers.ranked[:, :10],
            best=each.keys[:, :100],
            videos=len(each.release.candidates.keys),
            predictions={
                "watch": each.watch_predictions(shared),
                **each.outcome_predictions(outcomes),
            },
            weights=each.release.manifest.score_weights.root,
            seconds=spent,
        )
        for each, shared, spent in zip(asked, compared, seconds, strict=True)
    ]


@dataclass(frozen=True)
class _Asked:
    """A release's responses for v viewers whose held-out videos are rows `targets`, int64[v]."""

    release: LoadedRelease
    answers: ChainAnswers
    targets: Int64Array

    @cached_property
    def ranks(self) -> Int64Array:
        """Rank of each held-out video, int64[v]."""
        return list_ranks(self.answers.ranked, self.targets)

    @cached_property
    def real(self) -> BoolArray:
        """Which entries are candidates rather than padding, bool[v, c]."""
        return self.answers.ranked >= 0

    @cached_property
    def keys(self) -> Int64Array:
        """Keys of the candidates, best first, int64[v, c]; _NO_KEY for none."""
        return np.where(self.real, self.release.candidates.keys[self.answers.ranked], _NO_KEY)

    def watch_predictions(self, compared: BoolArray) -> Predictions:
        """Return predicted and observed watches of the candidates."""
        watched = self.answers.ranked == self.targets[:, None]
        return Predictions.of(self.answers.watch, watched, self.real, compared & self.real)

    def outcome_predictions(self, labels: Float32Array) -> dict[str, Predictions]:
        """Return predictions of OUTCOMES of the held-out videos; `labels` may be NaN."""
        known = ~np.isnan(labels)
        return {
            task.name: Predictions.of(
                self.answers.target_outcomes[:, [column]],
                labels[:, [column]] > 0,
                known[:, [column]],
                known[:, [column]],
            )
            for column, task in enumerate(OUTCOMES)
        }


def _ask(
    release: LoadedRelease, features: Sequence[ViewerFeatures], keys: Int64Array, repo: Path
) -> _Asked:
    """Return a release's responses for viewers whose held-out videos have these keys."""
    targets = release.candidates.rows.find(keys)
    count = release.candidates.manifest.candidates
    answers = run_chain(release.candidates, release.ranking, features, targets, count, repo)
    return _Asked(release, answers, targets)


def _fingerprint(test: pd.DataFrame) -> str:
    """Return the SHA-256 of the test viewers and their held-out watches."""
    columns = test[["viewer_id", "video_id", "time"]].astype(str)
    # Figures that were measured with the newest snapshot's features, or with videos that weren't
    # published yet, don't compare with these.
    kind = "as of the request, of what was published"
    return hashlib.sha256(f"{kind}\n{columns.to_csv(index=False)}".encode()).hexdigest()


def _inference_seconds(
    releases: Sequence[LoadedRelease], features: Sequence[ViewerFeatures]
) -> list[Float64Array]:
    """Return the CPU seconds of viewer tower and ranker by viewer, float64[t] for each release.

    CPU time of this thread, in which both run, excludes other work on the machine. The releases
    take turns, in alternating order, so that any slowdown affects both equally.
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
    candidates, ranking = release.candidates, release.ranking
    retrieval = CandidatePipeline(candidates, fail_open=False)
    count = candidates.manifest.candidates

    def call(viewer: ViewerFeatures) -> float:
        found = retrieval.retrieve(CandidateQuery(viewer=viewer, count=count))
        query = Ranking.of(ranking, ranking_query(viewer, found))
        retrieved = requested(query)
        start = time.thread_time()
        candidates.viewer_vector(viewer)
        scored(query, retrieved)
        return time.thread_time() - start

    return call
