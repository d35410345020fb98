"""Builds the slate from the stages' results."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import zip_longest

from vireo.server.features.keys import video_key
from vireo.server.gateway.rules import ActiveRules
from vireo.server.recommend.page import fill_page
from vireo.server.signals import ORDERING
from vireo.v1 import candidate_pb2, ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.viewer_pb2 import ScoreColumn

TASKS = frozenset(pb.TaskScores.DESCRIPTOR.fields_by_name)
"""Tasks of the API; pods of a later build may return others too."""


@lru_cache(maxsize=256)
def sources_of(mask: int) -> tuple[viewer_pb2.Source.ValueType, ...]:
    """Return the numbers of the sources whose bits are set, as far as this build knows them."""
    return tuple(n for n in viewer_pb2.Source.values() if n and mask >> n & 1)


def ranked_slate(
    ranked: ranking_pb2.RankCandidatesResponse,
    candidates: candidate_pb2.RetrieveCandidatesResponse,
) -> pb.RecommendResponse:
    """Return the slate in the ranker's order.

    Videos that the ranking pod's release doesn't know come last and without an id. Videos of the
    candidate pod's first page, which that pod has named, take their places.
    """
    slate = pb.RecommendResponse(release_id=ranked.release_id)
    known = [column for column in ranked.task_scores if column.name in TASKS]
    tasks = [column.name for column in known]
    probabilities = zip(*(column.values for column in known), strict=True)
    columns = ranked.ids, ranked.scores, ranked.source_masks, probabilities
    position = 0
    for (name, score, mask, values), title in zip_longest(
        zip(*columns, strict=True), ranked.titles
    ):
        if name:
            position += 1
            slate.items.add(
                video_id=name,
                score=score,
                position=position,
                sources=sources_of(mask),
                # As a message of its own it would be copied.
                task_scores=dict(zip(tasks, values, strict=True)),
                title=title,
            )
    if position < len(ranked.ids):
        shown = {item.video_id for item in slate.items}
        rest = [place for place, name in enumerate(candidates.ids) if name not in shown]
        for place in rest[: len(ranked.ids) - position]:
            position += 1
            slate.items.add(
                video_id=candidates.ids[place],
                position=position,
                sources=sources_of(candidates.source_masks[place]),
            )
    return slate


def retrieved_slate(
    candidates: candidate_pb2.RetrieveCandidatesResponse, rules: ActiveRules | None = None
) -> pb.RecommendResponse:
    """Return the first page in retrieval order, for slates whose ranking was skipped.

    Of the site's rules, what they pin has its position.
    """
    if rules is not None and rules.pinned:
        candidates = _with_pinned(candidates, rules.pinned)
    slate = pb.RecommendResponse(release_id=candidates.release_id)
    scores = next((each.values for each in candidates.scores if each.name == ORDERING), ())
    for position, (name, score, mask) in enumerate(
        zip(candidates.ids, scores, candidates.source_masks, strict=False), start=1
    ):
        slate.items.add(video_id=name, score=score, position=position, sources=sources_of(mask))
    return slate


def _with_pinned(
    candidates: candidate_pb2.RetrieveCandidatesResponse, pinned: Mapping[int, str]
) -> candidate_pb2.RetrieveCandidatesResponse:
    """Return the named candidates, with those of `pinned` at their positions if there are such."""
    keys, ids = candidates.keys[:], candidates.ids[:]
    names = dict(enumerate(ids))
    pins = {}
    for position, name in pinned.items():
        if (key := video_key(name)) in keys:
            pins[position] = keys.index(key)
            names[pins[position]] = name
    places = fill_page(range(len(ids)), len(ids), pins=pins).tolist()
    scores = next((each.values for each in candidates.scores if each.name == ORDERING), ())
    return candidate_pb2.RetrieveCandidatesResponse(
        keys=[keys[place] for place in places],
        ids=[names[place] for place in places],
        source_masks=[candidates.source_masks[place] for place in places],
        scores=[ScoreColumn(name=ORDERING, values=[scores[place] for place in places])],
        release_id=candidates.release_id,
    )


def popular_slate(ids: list[str], release_id: str) -> pb.RecommendResponse:
    """Return the popular list of a release as a slate; its scores are 1/position."""
    slate = pb.RecommendResponse(release_id=release_id)
    for position, name in enumerate(ids, start=1):
        slate.items.add(video_id=name, score=1 / position, position=position)
    return slate
