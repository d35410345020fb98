"""The stages of the ranking pipeline."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vireo.server.arrays import Float32Array
from vireo.server.features.model_inputs import ranking_inputs, retrieval_features
from vireo.server.models.model import ModelOutputError
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.ranking.damping import damping
from vireo.server.recommend.ranking.query import Ranking
from vireo.server.signals import TASKS

SCORE = "score"
"""Column of the score that orders the page."""


class RequestedSource:
    """The candidates that the caller retrieved."""

    name = "requested"
    fail_open = False

    def propose(self, query: Ranking) -> Candidates:
        """Return the query's candidates, in its order."""
        asked = query.query
        return Candidates(asked.keys, query.rows, asked.source_masks, asked.scores)


def model_inputs(query: Ranking, candidates: Candidates) -> dict[str, np.ndarray]:
    """Return the ranking model's inputs for candidates that the release knows."""
    return ranking_inputs(
        query.viewer,
        query.history_rows,
        candidates.rows,
        retrieval_features(candidates.scores, candidates.source_masks),
        query.table,
        query.release.vocabulary,
        query.release.context,
    )


class RankerScorer:
    """The model's probabilities, and the score that weights and the site's rules make of them."""

    name = "ranker"
    fail_open = False
    columns: Mapping[str, float] = {SCORE: 0.0, **{task.name: task.neutral for task in TASKS}}

    def score(self, query: Ranking, candidates: Candidates) -> Mapping[str, Float32Array]:
        """Return SCORE and each task's probability; 0 for candidates and tasks of other releases.

        Raises:
            ModelOutputError: a probability or a score isn't finite.
        """
        release = query.release
        known = (candidates.rows >= 0).nonzero()[0]
        columns = {name: np.zeros(len(candidates), np.float32) for name in self.columns}
        if not len(known):
            return columns
        retrieved = candidates if len(known) == len(candidates) else candidates.take(known)
        outputs = release.ranker.run(model_inputs(query, retrieved))[0]
        names = release.manifest.feature_schema.tasks
        tasks = {name: outputs[:, place] for place, name in enumerate(names)}
        score = release.manifest.score_weights.combined(tasks)
        factors = damping(query, retrieved.rows)
        if factors is not None:
            score = score * factors
        rules = query.query.rules
        if rules is not None and rules.factors is not None:
            score = score * rules.factors[known]
        if not np.isfinite(score).all():  # for example of a negative probability
            raise ModelOutputError("the weighted score of a candidate isn't finite")
        for name, values in {SCORE: score, **tasks}.items():
            columns[name][known] = values
        return columns
