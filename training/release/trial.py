"""Asks a model in float32 and in int8 for the same viewers of the validation part.

One at a time, as serving does: int8 rounds by the largest and smallest number of all that comes in,
so that in a batch each viewer's answer would depend on the others'.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from server.candidate.pipeline import CandidatePipeline, CandidateQuery
from server.candidate.release import CandidateRelease
from server.candidate.viewer_vectors import ViewerVectors
from server.features.tower_inputs import tower_inputs
from server.inference.model import Model
from server.ranking.diversity import RERANK_WINDOW
from server.releases.manifest import ScoreWeights
from training.evaluation.diversity import MISSED, ScoredLists, reordered
from training.evaluation.metrics import expected_calibration_error
from training.ranking.batches import Batches, Places, chunks
from training.ranking.calibration import TASKS
from training.ranking.config import RankingConfig
from training.ranking.training_set import RankingSet
from training.release.precision import Answers
from training.retrieval.data import HeldOut

VIEWERS = 1000
"""Viewers whose lists are compared, at most: some three seconds for a model of ml-100k."""
TIMED_VIEWERS = 200
_WARM_UP = 5
_TOGETHER = 64
"""Lists that are made at a time: all of them would be some hundred megabytes."""
_OF_CANDIDATES = (
    "candidate_vectors",
    "candidate_features",
    "retrieval_features",
    "match_features",
)
"""Inputs of the ranker that have a row a candidate."""

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
Inputs = Mapping[str, npt.NDArray[Any]]


class Trial(Protocol):
    """A model's two variants, and whom to ask for."""

    def viewers(self) -> int:
        """How many can be asked for, up to VIEWERS."""

    def seconds(self) -> npt.NDArray[np.float64]:
        """Processor time of either for TIMED_VIEWERS, float32 first, float64[2, v]."""

    def answers(self) -> Answers:
        """What both answer."""


@dataclass(frozen=True)
class TowerTrial:
    """The viewer tower that a release has, in float32, beside its int8 variant."""

    release: CandidateRelease
    int8: Model
    held_out: Sequence[HeldOut]

    def viewers(self) -> int:
        """See Trial."""
        return min(VIEWERS, len(self.held_out))

    def seconds(self) -> npt.NDArray[np.float64]:
        """See Trial."""
        release, limit = self.release, self.release.manifest.feature_schema.history_limit
        inputs = (
            tower_inputs([one.viewer], release.rows, release.vocabulary, limit)
            for one in self._drawn(TIMED_VIEWERS)
        )
        return _in_turns((release.tower, self.int8), inputs)

    def answers(self) -> Answers:
        """The candidates that the whole pipeline retrieves, best first."""
        asked = self._drawn(VIEWERS)
        found = []
        for tower in (self.release.tower, self.int8):
            release = replace(self.release, tower=tower, viewers=ViewerVectors(0))
            pipeline = CandidatePipeline(release, fail_open=False)
            lists = np.full((len(asked), RankingConfig.candidates), -1, np.int64)
            for place, one in enumerate(asked):
                query = CandidateQuery(viewer=one.viewer, count=lists.shape[1])
                rows = pipeline.retrieve(query).rows
                lists[place, : len(rows)] = rows
            found.append(lists)
        targets = np.array([one.target for one in asked], np.int64)
        return Answers(found[0], found[1], targets)

    def _drawn(self, limit: int) -> list[HeldOut]:
        return [self.held_out[place] for place in _drawn(np.arange(len(self.held_out)), limit)]


@dataclass(frozen=True)
class RankerTrial:
    """Both variants of a ranker over lists of its training set, each viewer's last.

    Viewers whom the ranker was fitted on are among them: both know alike what it learned.
    """

    float32: Model
    int8: Model
    data: RankingSet
    vectors: Float32Array
    """Of the videos, float32[n, d]."""
    weights: ScoreWeights

    def viewers(self) -> int:
        """See Trial."""
        return len(self._drawn(VIEWERS))

    def seconds(self) -> npt.NDArray[np.float64]:
        """See Trial."""
        return _in_turns((self.float32, self.int8), self._lists(self._drawn(TIMED_VIEWERS)))

    def answers(self) -> Answers:
        """The first ten of each list in the order that serving gives them."""
        asked, watches, likes = self._drawn(VIEWERS), self.data.watches, self.data.likes
        liked, label = _drawn(np.arange(len(likes.rows)), VIEWERS), watches.label[asked]
        targets = np.where(label >= 0, watches.rows[asked, np.maximum(label, 0)], MISSED)
        slates, errors = [], []
        for model in (self.float32, self.int8):
            lists = ScoredLists(
                np.full((len(asked), RERANK_WINDOW), -1, np.int64),
                np.zeros((len(asked), RERANK_WINDOW), np.float32),
                targets,
            )
            chances, watched = [np.empty(0, np.float32)], [np.empty(0, np.bool_)]
            for place, inputs in enumerate(self._lists(asked)):
                watch, like = model.run(inputs)[0].T
                scores = watch**self.weights.watch * like**self.weights.like
                best = np.argsort(-scores, kind="stable")[:RERANK_WINDOW]
                lists.rows[place, : len(best)] = watches.rows[asked[place], best]
                lists.scores[place, : len(best)] = scores[best]
                chances.append(watch)
                watched.append(np.arange(len(watch)) == label[place])
            slates.append(reordered(lists, self.vectors, self.weights.diversity))
            like = np.array([model.run(one)[0, 0, 1] for one in self._likes(liked)], np.float32)
            found = (
                expected_calibration_error(np.concatenate(chances), np.concatenate(watched)),
                expected_calibration_error(like, likes.liked[liked]),
            )
            errors.append(dict(zip(TASKS, found, strict=True)))
        return Answers(slates[0], slates[1], targets, (errors[0], errors[1]))

    def _drawn(self, limit: int) -> Places:
        watches = self.data.watches
        return _drawn(np.flatnonzero(watches.last & (watches.rows[:, 0] >= 0)), limit)

    @cached_property
    def _batches(self) -> Batches:
        return Batches(self.vectors)

    def _lists(self, places: Places) -> Iterator[Inputs]:
        for some in chunks(places, _TOGETHER):
            inputs, real = self._batches.watch_inputs(self.data.watches, some)
            for at, count in enumerate(real.sum(1).tolist()):
                yield _alone(inputs, at, count)

    def _likes(self, places: Places) -> Iterator[Inputs]:
        for some in chunks(places, _TOGETHER):
            inputs = self._batches.like_inputs(self.data.likes, some)
            for at in range(len(some)):
                yield _alone(inputs, at, 1)


def _drawn(places: Places, limit: int) -> Places:
    """At most `limit` of them, spread evenly."""
    if len(places) <= limit:
        return places
    spread = np.linspace(0, len(places) - 1, limit).astype(np.intp)
    chosen: Places = places[spread]
    return chosen


def _alone(inputs: Mapping[str, Tensor], at: int, candidates: int) -> Inputs:
    """One viewer's part of a batch without padding, as serving would feed it."""
    history = max(1, int(inputs["history_lengths"][at]))
    cut = dict.fromkeys(_OF_CANDIDATES, candidates) | {"history_vectors": history}
    return {
        name: (part[at : at + 1, : cut[name]] if name in cut else part[at : at + 1]).numpy()
        for name, part in inputs.items()
    }


def _in_turns(models: tuple[Model, Model], inputs: Iterable[Inputs]) -> npt.NDArray[np.float64]:
    """Seconds of the processor that each model takes for each of the inputs, float64[2, v].

    They take turns, and turns at being first: what slows the machine meets both.
    """
    seconds: list[list[float]] = [[], []]
    for place, feed in enumerate(inputs):
        for model in models if not place else ():
            for _ in range(_WARM_UP):
                model.run(feed)
        for which in (0, 1) if place % 2 else (1, 0):
            start = time.thread_time()
            models[which].run(feed)
            seconds[which].append(time.thread_time() - start)
    return np.array(seconds)
