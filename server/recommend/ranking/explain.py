"""What became of one video in ranking, for `ExplainVideo`; such requests are ranked twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from vireo.server.arrays import Float32Array
from vireo.server.columns import encode_columns
from vireo.server.features.model_inputs import RETRIEVAL_FEATURES, VIDEO_FEATURES, VIEWER_FEATURES
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.page import LabelsOf
from vireo.server.recommend.ranking.diversity import SCORE, damping, diverse_best, fatigue
from vireo.server.recommend.ranking.pipeline import (
    RankingPipeline,
    model_inputs,
    requested,
    scored,
    selected,
)
from vireo.server.recommend.ranking.release import PageRules, Ranking, RankingQuery
from vireo.server.recommend.wording import ordinal
from vireo.server.signals import ORDERING, SOURCES
from vireo.v1 import ranking_pb2
from vireo.v1.recommendation_pb2 import NamedValue

_FEATURES: Mapping[str, tuple[str, ...]] = {
    "retrieval_features": RETRIEVAL_FEATURES,
    "candidate_features": tuple(f"video.{name}" for name in VIDEO_FEATURES),
    "viewer_features": tuple(f"viewer.{name}" for name in VIEWER_FEATURES),
}
"""Columns of the ranking model's inputs of every release, apart from vectors and lists."""
_AS_CANDIDATE = next(source.bit for source in SOURCES if source.name == ORDERING)
"""Source mask of a video that isn't among the candidates."""


def explain(
    pipeline: RankingPipeline, query: RankingQuery, key: int, scores: Mapping[str, Float32Array]
) -> ranking_pb2.ExplainedRanking:
    """Return what became of a video in the ranking of a query's candidates.

    Args:
        pipeline: ranks them.
        query: the query.
        key: the video's.
        scores: its `signals.SCORES`, float32[1] each; read only if it isn't among the candidates.

    Raises:
        ModelOutputError: a score isn't finite.
    """
    count, page = len(query.keys), query.page_size
    among = key in query.keys
    if not among:
        query = _with(query, key, scores)
    rules = query.rules
    pinned = 0
    if rules is not None:
        pinned = next((1 + at for at, other in rules.pins.items() if other == key), 0)
        # What is pinned after the page's end is on it by its score, or not at all.
        rules = replace(
            rules, pins={at: pin for at, pin in rules.pins.items() if at < min(page, count)}
        )
    # A page of any size is the beginning of the order of all candidates.
    ranking = Ranking.of(pipeline.release, replace(query, page_size=len(query.keys), rules=rules))
    candidates = scored(ranking, requested(ranking))
    place = int((candidates.keys == key).argmax())
    video = candidates.take(np.array([place]))
    position = _position(candidates.take(selected(ranking, candidates).page.places), key)
    if video.rows[0] < 0:
        reason = f"Release {pipeline.release.manifest.release_id} of the ranking pod lacks it."
        return ranking_pb2.ExplainedRanking(position=position, reason=reason)
    factor, of_shown = (
        1.0 if factors is None else float(factors[0])
        for factors in (damping(ranking, video.rows), fatigue(ranking, video.keys))
    )
    weights = pipeline.release.manifest.score_weights
    tasks = pipeline.release.manifest.feature_schema.tasks
    score = float(video.scores[SCORE][0])
    by_score = 1 + int(np.count_nonzero(candidates.scores[SCORE] > score))
    reason = f"By its score of {score:.4g} it is the {ordinal(by_score)} of {count:,} candidates"
    if not among:
        reason = f"As a candidate it would be the {ordinal(by_score)}, with a score of {score:.4g}"
    if factor < 1:
        reason += f", {factor:.2g} of what it was, since the viewer has hidden a video like it"
    if of_shown < 1:
        reason += f", {of_shown:.2g} of what it was, since it was shown before and not played"
    if rules is not None and rules.factors is not None and rules.factors[place] != 1:
        reason += f", {rules.factors[place]:.3g} times what it was by the site's rules"
    if pinned and position == pinned <= page:
        reason += f"; the site's rules pin it as the {ordinal(pinned)}"
    elif position != by_score:
        order = diverse_best(ranking, candidates, len(candidates))
        diverse = _position(candidates.take(order), key)
        reason += _moved(by_score, diverse, position, weights.diversity)
    if pinned > page:
        reason += f"; the site's rules pin it as the {ordinal(pinned)}, after the page's end"
    if among:
        reason += f"; the page has the first {page:,}"
    return ranking_pb2.ExplainedRanking(
        position=position,
        reason=f"{reason}.",
        score=score,
        task_scores=encode_columns({name: video.scores[name] for name in tasks}),
        task_weights=_named({name: weights.root.get(name, 0.0) for name in tasks}),
        score_factor=factor * of_shown,
        features=_features(ranking, video),
    )


def _with(query: RankingQuery, key: int, scores: Mapping[str, Float32Array]) -> RankingQuery:
    """Return a query with one more candidate, as if two_tower had proposed it."""
    columns = {name: np.append(column, scores[name]) for name, column in query.scores.items()}
    masks = np.append(query.source_masks, np.uint32(_AS_CANDIDATE))
    rules = query.rules and _with_one_more(query.rules, len(query.keys))
    keys = np.append(query.keys, key)
    return replace(query, keys=keys, scores=columns, source_masks=masks, rules=rules)


def _with_one_more(rules: PageRules, count: int) -> PageRules:
    """Return rules of `count` candidates for those and one more, that no boost or cap is for."""

    def within(labels_of: LabelsOf) -> LabelsOf:
        return lambda place: labels_of(place) if place < count else ()

    factors = None if rules.factors is None else np.append(rules.factors, np.float32(1))
    caps = [(most, within(labels_of)) for most, labels_of in rules.caps]
    return replace(rules, factors=factors, caps=caps)


def _position(ordered: Candidates, key: int) -> int:
    """Return the place of a key from 1; 0 if a cap of the site's rules keeps it out."""
    places = (ordered.keys == key).nonzero()[0]
    return 1 + int(places[0]) if len(places) else 0


def _moved(by_score: int, diverse: int, position: int, strength: float) -> str:
    """Return what moved a video from its place by score."""
    if not position:
        return "; a cap of the site's rules keeps it off the page"
    if diverse != position:
        if position < diverse:
            return f"; a reserved position makes it the {ordinal(position)}"
        return f"; positions reserved for others make it the {ordinal(position)}"
    if strength > 0:
        like = "videos like it come before it" if diverse > by_score else "it is unlike others"
        return f"; it is the {ordinal(position)} since {like} (diversity {strength:g})"
    return f"; among equal scores it is the {ordinal(position)}"


def _features(ranking: Ranking, candidate: Candidates) -> Iterator[NamedValue]:
    """Return the ranking model's inputs of one candidate by name."""
    schema, inputs = ranking.release.manifest.feature_schema, model_inputs(ranking, candidate)
    columns = {**_FEATURES, "match_features": schema.match_features}
    if schema.context_features:
        columns["context"] = tuple(f"context.{name}" for name in schema.context_features)
    for group, names in columns.items():
        values: Float32Array = inputs[group].ravel()
        yield from _named(dict(zip(names, values.tolist(), strict=True)))


def _named(values: Mapping[str, float]) -> Iterator[NamedValue]:
    for name, value in values.items():
        yield NamedValue(name=name, value=value)
