"""Builds slates: ranked, as retrieved, or of the popular list."""

from __future__ import annotations

from functools import lru_cache
from itertools import zip_longest

from vireo.server.features.keys import video_key
from vireo.server.gateway.rules import ActiveRules
from vireo.server.recommend.page import fill_page
from vireo.server.signals import ORDERING
from vireo.v1 import candidate_pb2, ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb

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
    candidates: candidate_pb2.RetrieveCandidatesResponse, rules: ActiveRules | None
) -> pb.RecommendResponse:
    """Return the first page in retrieval order, for slates whose ranking was skipped.

    Of the site's rules, what they pin has its position.
    """
    names, places = dict(enumerate(candidates.ids)), [*range(len(candidates.ids))]
    if rules is not None and rules.pinned:
        keys, pins = candidates.keys[:], {}
        for position, name in rules.pinned.items():
            if (key := video_key(name)) in keys:
                pins[position] = keys.index(key)
                names[pins[position]] = name
        places = fill_page(places, len(places), pins=pins).places.tolist()
    scores = next((each.values for each in candidates.scores if each.name == ORDERING), ())
    slate = pb.RecommendResponse(release_id=candidates.release_id)
    for position, place in enumerate(places, start=1):
        slate.items.add(
            video_id=names[place],
            score=scores[place],
            position=position,
            sources=sources_of(candidates.source_masks[place]),
        )
    return slate


def popular_slate(ids: list[str], release_id: str) -> pb.RecommendResponse:
    """Return the popular list of a release as a slate; its scores are 1/position."""
    slate = pb.RecommendResponse(release_id=release_id)
    for position, name in enumerate(ids, start=1):
        slate.items.add(video_id=name, score=1 / position, position=position)
    return slate
