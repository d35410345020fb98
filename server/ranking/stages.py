"""The stages of the ranking pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import structlog

from server.arrays import Float32Array
from server.features.ranking_inputs import ranking_inputs, retrieval_features
from server.inference.model import ModelOutputError
from server.pipeline.candidates import Candidates
from server.ranking.query import Ranking
from server.signals import TASKS

log = structlog.get_logger()

SCORE = "score"


@dataclass(frozen=True)
class RequestedSource:
    """The candidates that the caller retrieved."""

    name: str = "requested"
    fail_open: bool = False

    def propose(self, query: Ranking) -> Candidates:
        """Return the query's candidates, in its order."""
        asked = query.query
        return Candidates(asked.keys, query.rows, asked.source_masks, asked.scores)


@dataclass(frozen=True)
class RankerScorer:
    """The ranking model's probabilities; 0 for candidates that the release doesn't know."""

    name: str = "ranker"
    fail_open: bool = False

    @property
    def columns(self) -> Mapping[str, float]:
        """One per task."""
        return {task.name: task.neutral for task in TASKS}

    def score(self, query: Ranking, candidates: Candidates) -> Mapping[str, Float32Array]:
        """Return the probability of each task, for each candidate."""
        release = query.release
        known = (candidates.rows >= 0).nonzero()[0]
        tasks = np.zeros((len(candidates), len(TASKS)), np.float32)
        if len(known):
            retrieved = candidates if len(known) == len(candidates) else candidates.take(known)
            inputs = ranking_inputs(
                query.viewer,
                query.history_rows,
                retrieved.rows,
                retrieval_features(retrieved.scores, retrieved.source_masks),
                release.table,
                release.vocabulary,
            )
            tasks[known] = release.ranker.run(inputs)[0]
        return {task.name: tasks[:, place] for place, task in enumerate(TASKS)}


@dataclass(frozen=True)
class WeightedScorer:
    """Combines the tasks' probabilities by the release's weights."""

    name: str = "weighted"
    fail_open: bool = False

    @property
    def columns(self) -> Mapping[str, float]:
        """The score that orders the page."""
        return {SCORE: 0.0}

    def score(self, query: Ranking, candidates: Candidates) -> Mapping[str, Float32Array]:
        """Return the tasks' probabilities combined by the weights; 0 for unknown candidates.

        Raises:
            ModelOutputError: a score isn't finite, for example of a negative probability.
        """
        weights = query.release.manifest.score_weights
        score = weights.combined(candidates.scores)
        score = np.where(candidates.rows >= 0, score, 0).astype(np.float32)
        if not np.isfinite(score).all():
            raise ModelOutputError("the weighted score of a candidate isn't finite")
        return {SCORE: score}


@dataclass(frozen=True)
class UnknownCandidatesLog:
    """Warns operators that candidate and ranking pods serve different releases."""

    name: str = "unknown_candidates_log"

    def run(self, query: Ranking, selected: Candidates) -> None:
        """Log a page with candidates that the release doesn't know."""
        unknown = int(np.count_nonzero(selected.rows < 0))
        if unknown:
            log.warning(
                "page has candidates that the release doesn't know",
                unknown=unknown,
                release=query.release.manifest.release_id,
            )
