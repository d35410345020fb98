"""The ranking pipeline: the caller's candidates, the model's scores, a diverse selection.

Some positions of a page are reserved: for new videos, trending ones and the site's rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog
import xxhash

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.features.model_inputs import ranking_inputs, retrieval_features
from vireo.server.models.model import ModelOutputError
from vireo.server.recommend.candidates import Candidates, best
from vireo.server.recommend.page import ORDER, Page, fill_page
from vireo.server.recommend.ranking.diversity import SCORE, damping, diverse_best, fatigue
from vireo.server.recommend.ranking.record import Placement, Record, Selected, recorded
from vireo.server.recommend.ranking.release import Ranking, RankingQuery, RankingRelease
from vireo.server.recommend.runner import Caller, Observer, Run
from vireo.server.signals import COLD_SHARE, TASKS, TRENDING

__all__ = ["RankedCandidates", "RankingPipeline", "RankingQuery"]

log = structlog.get_logger()

NEW_SHARE = 0.05
"""Share of the positions that the best new videos get, until they were seen often enough; a rule of
the site may set another."""
NEW_IMPRESSIONS = 1_000
"""Impressions after which a new video has its place by its score alone."""
MIN_UNTIRED = 0.5
"""Minimum share of its score that fatigue leaves a video with a reserved position."""


def requested(query: Ranking) -> Candidates:
    """Return the candidates that the caller retrieved, in its order."""
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
        tuple(query.release.manifest.feature_schema.context_features),
    )


def scored(query: Ranking, candidates: Candidates) -> Candidates:
    """Return candidates with SCORE and each task's probability.

    They are the model's, and what the release's weights and the site's rules make of them; 0 for
    candidates that the release doesn't know, and tasks that it lacks.

    Raises:
        ModelOutputError: a probability is none, or a score isn't finite.
    """
    release = query.release
    known = (candidates.rows >= 0).nonzero()[0]
    columns = {
        name: np.zeros(len(candidates), np.float32)
        for name in (SCORE, *(task.name for task in TASKS))
    }
    if not len(known):
        return candidates.with_scores(columns)
    retrieved = candidates if len(known) == len(candidates) else candidates.take(known)
    outputs = release.ranker.run(model_inputs(query, retrieved))[0]
    names = release.manifest.feature_schema.tasks
    tasks = {name: outputs[:, place] for place, name in enumerate(names)}
    if not all(task.admits(tasks[task.name]) for task in TASKS if task.name in tasks):
        raise ModelOutputError("a probability isn't from 0 to 1")
    score = release.manifest.score_weights.combined(tasks)
    for factors in (damping(query, retrieved.rows), fatigue(query, retrieved.keys)):
        if factors is not None:
            score = score * factors
    rules = query.query.rules
    if rules is not None and rules.factors is not None:
        score = score * rules.factors[known]
    if not np.isfinite(score).all():  # for example of a negative probability
        raise ModelOutputError("the weighted score of a candidate isn't finite")
    for name, values in {SCORE: score, **tasks}.items():
        columns[name][known] = values
    return candidates.with_scores(columns)


def selected(query: Ranking, candidates: Candidates) -> Selected:
    """Return the page as `diverse_best` orders it, but for reserved positions and capped labels.

    No share is reserved for videos that are damped, since the viewer has hidden one like them, or
    that the viewer is tired of.
    Which positions are reserved depends on the request alone: a shorter page is a prefix of a
    longer one, and shares below one position a page hold over many requests.
    """
    rules = query.query.rules
    caps, shown = ((), ()) if rules is None else (rules.caps, rules.shown)
    page = min(query.query.page_size, len(candidates))
    # What a cap keeps off the page makes room for any of the others.
    usual = diverse_best(query, candidates, len(candidates) if caps else page)
    claims, queues = list[Placement](), list[tuple[float, Int64Array]]()
    for placement, share, wanted in _claims(query, candidates):
        if len(places := _undamped(query, candidates, wanted)):
            scores = candidates.scores[SCORE][places]
            queues.append((share, best(places, scores, candidates.keys, len(usual))))
            claims.append(placement)
    pins = {} if rules is None else _places_of(rules.pins, candidates)
    if not (queues or pins or caps):
        return Selected(Page(usual, [ORDER] * len(usual)), claims)

    def filled(offset: float) -> Page:
        return fill_page(
            usual.tolist(), page, pins=pins, queues=queues, offset=offset, caps=caps, shown=shown
        )

    if not queues:
        return Selected(filled(0.0), claims)
    shares = [share for share, _ in queues]
    return Selected(filled(_offset(query)), claims, filled, shares)


def _claims(query: Ranking, candidates: Candidates) -> list[tuple[Placement, float, BoolArray]]:
    """Return what positions are reserved for, their share, and candidates that have it, bool[n]."""
    live, rules = query.release.live, query.query.rules
    claims: list[tuple[Placement, float, BoolArray]] = []
    if live is None:
        return claims
    share = NEW_SHARE if rules is None or rules.new_share is None else rules.new_share
    if share and live.places:
        unseen = live.unseen(candidates.keys, candidates.rows, NEW_IMPRESSIONS)
        claims.append((Placement.NEW, share, unseen))
    if not len(query.viewer.history_keys):
        trending = candidates.source_masks & TRENDING.bit > 0
        claims.append((Placement.TRENDING, COLD_SHARE, trending))
    return claims


def _places_of(pins: Mapping[int, int], candidates: Candidates) -> dict[int, int]:
    """Return the place of the candidate that each position is for, where the release knows it."""
    found = {}
    for position, key in pins.items():
        places = ((candidates.keys == key) & (candidates.rows >= 0)).nonzero()[0]
        if len(places):
            found[position] = int(places[0])
    return found


def _undamped(query: Ranking, candidates: Candidates, wanted: BoolArray) -> Int64Array:
    """Return the places of the wanted candidates but for those like a video that was hidden.

    Nor are there any of which fatigue leaves less than MIN_UNTIRED.
    """
    places = (wanted & (candidates.rows >= 0)).nonzero()[0]
    factors = damping(query, candidates.rows[places]) if len(places) else None
    places = places if factors is None else places[factors >= 1]
    factors = fatigue(query, candidates.keys[places]) if len(places) else None
    return places if factors is None else places[factors >= MIN_UNTIRED]


def _offset(query: Ranking) -> float:
    """Return a number from 0 to 1 by the request: the same for the same request."""
    asked = query.query.keys[:16].tobytes() + query.viewer.asked_at.to_bytes(8, "little")
    return xxhash.xxh3_64_intdigest(asked) / 2.0**64


@dataclass(frozen=True)
class RankedCandidates:
    """The best candidates in columns, best first."""

    keys: Int64Array
    """int64[m]."""
    rows: Int64Array
    """Rows in the release's `videos`, int64[m]; -1 for a key that it doesn't know."""
    scores: Float32Array
    """The score that orders them, apart from diversity, float32[m]."""
    tasks: Mapping[str, Float32Array]
    """Probability of each task of the release, float32[m]."""
    source_masks: npt.NDArray[np.uint32]
    """uint32[m]."""
    unknown: int
    """Number of candidates, ranked or not, that the release doesn't know."""
    capped: Sequence[int] = ()
    """Number of candidates that each cap of the site's rules kept off the page."""
    record: Record | None = None
    """How the page came about, if the query asks for it."""


class RankingPipeline:
    """Ranks with one release. Safe to use from several threads."""

    def __init__(self, release: RankingRelease, observer: Observer | None = None) -> None:
        """Rank with `release`; `observer` is told of stages' times and failures."""
        self.release = release
        self._observer = observer or Observer()

    def rank(self, query: RankingQuery, caller: Caller | None = None) -> RankedCandidates:
        """Return the best `page_size` of the query's candidates.

        Raises:
            CallerGoneError: the caller has gone.
            ModelOutputError: a score isn't finite.
        """
        ranking = Ranking.of(self.release, query)
        run = Run(self._observer, caller or Caller())
        candidates = requested(ranking)
        with run.stage("ranker", kind="scorer"):
            candidates = scored(ranking, candidates)
        record = None
        with run.stage("diverse_best_and_reserved", kind="selector"):
            chosen = selected(ranking, candidates)
            page = candidates.take(chosen.page.places)
            if query.recorded:
                record = recorded(ranking, candidates, chosen, query.recorded)
        if unknown := int(np.count_nonzero(page.rows < 0)):
            log.warning(
                "page has candidates that the release doesn't know",
                unknown=unknown,
                release=self.release.manifest.release_id,
            )
        return RankedCandidates(
            keys=page.keys,
            rows=page.rows,
            scores=page.scores[SCORE],
            tasks={name: page.scores[name] for name in self.release.manifest.feature_schema.tasks},
            source_masks=page.source_masks,
            unknown=int(np.count_nonzero(ranking.rows < 0)),
            capped=chosen.page.kept_off,
            record=record,
        )
