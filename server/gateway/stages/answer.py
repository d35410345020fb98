"""Builds the slate from the stages' results."""

from __future__ import annotations

from functools import lru_cache
from itertools import compress

from vireo.v1 import candidate_pb2, ranking_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb

from server.signals import ORDERING

_TASKS = frozenset(pb.TaskScores.DESCRIPTOR.fields_by_name)
"""Tasks of the API; pods of a later build may return others too."""


@lru_cache(maxsize=256)
def sources_of(mask: int) -> tuple[viewer_pb2.Source.ValueType, ...]:
    """Return the numbers of the sources whose bits are set, as far as this build knows them."""
    return tuple(n for n in viewer_pb2.Source.values() if n and mask >> n & 1)


def ranked_items(
    ranked: ranking_pb2.RankCandidatesResponse,
    candidates: candidate_pb2.RetrieveCandidatesResponse,
) -> list[pb.SlateItem]:
    """Return the slate in the ranker's order.

    Videos that the ranking pod's release doesn't know come last and without an id. Videos of the
    candidate pod's first page, which that pod has named, take their places.
    """
    columns = zip(
        ranked.ids,
        ranked.scores,
        ranked.source_masks,
        ranked.titles or [""] * len(ranked.ids),
        strict=True,
    )
    named = (row for row in columns if row[0])
    items = [
        pb.SlateItem(
            video_id=name,
            score=score,
            position=position,
            sources=sources_of(mask),
            title=title,
        )
        for position, (name, score, mask, title) in enumerate(named, start=1)
    ]
    for task in ranked.task_scores:
        if task.name in _TASKS:
            for item, value in zip(items, compress(task.values, ranked.ids), strict=True):
                setattr(item.task_scores, task.name, value)
    if len(items) < len(ranked.ids):
        shown = {item.video_id for item in items}
        rest = [place for place, name in enumerate(candidates.ids) if name not in shown]
        items += [
            pb.SlateItem(
                video_id=candidates.ids[place],
                position=position,
                sources=sources_of(candidates.source_masks[place]),
            )
            for position, place in enumerate(rest[: len(ranked.ids) - len(items)], len(items) + 1)
        ]
    return items


def retrieved_items(candidates: candidate_pb2.RetrieveCandidatesResponse) -> list[pb.SlateItem]:
    """Return the first page in retrieval order, for slates whose ranking was skipped."""
    scores = next(each.values for each in candidates.scores if each.name == ORDERING)
    return [
        pb.SlateItem(
            video_id=name,
            score=scores[place],
            position=place + 1,
            sources=sources_of(candidates.source_masks[place]),
        )
        for place, name in enumerate(candidates.ids)
    ]


def popular_items(ids: list[str]) -> list[pb.SlateItem]:
    """Return the popular list as items; their scores are 1/position."""
    return [
        pb.SlateItem(video_id=name, score=1 / position, position=position)
        for position, name in enumerate(ids, start=1)
    ]
