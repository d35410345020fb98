"""The response of `explain_video`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from vireo_client._generated.enums import (
    LOST_AT_NUMBERS,
    SOURCE_NUMBERS,
    Degradation,
    LostAt,
    Source,
)
from vireo_client.messages import ExplainVideoResponse
from vireo_client.slate import TaskScores, degradations_of, task_scores_of


@dataclass(frozen=True, slots=True)
class SourceRank:
    """How one candidate source ranked a video."""

    source: Source
    rank: int
    """From 1; 0 if the source doesn't rank it, or in a large catalogue not among its first
    2,000."""
    proposed: int
    """Number of videos that the source proposed."""


@dataclass(frozen=True, slots=True)
class VideoExplanation:
    """What became of one video in a slate."""

    lost_at: LostAt | None
    """The stage at which it was lost; None if it is on the page."""
    reason: str
    """Why, in a sentence."""
    position: int
    """Place in the slate, or if it isn't on the page, in the order of which the page is the
    beginning; from 1, and 0 if it has none."""
    sources: tuple[Source, ...]
    """Sources that proposed it."""
    source_ranks: tuple[SourceRank, ...]
    """How each source ranked it; empty if it was lost before retrieval."""
    retrieval_rank: int
    """Place among the candidates by two_tower's score, from 1; 0 if it was none."""
    candidates: int
    """Number of candidates."""
    retrieval_scores: Mapping[str, float]
    """By name; empty unless the candidate pod knows the video."""
    score: float
    """Score that orders the slate, or would if it were a candidate; 0 if nothing ranked it."""
    score_factor: float
    """Share of its score that it kept, below 1 if the viewer has hidden a video like it."""
    task_scores: TaskScores | None
    """None if nothing ranked it."""
    task_weights: Mapping[str, float]
    """Exponent of each task's probability in the score, by task; of hide, that of 1 minus it."""
    ranking_features: Mapping[str, float]
    """What the ranking model reads of it and of the viewer, by name, apart from vectors."""
    features_age: timedelta | None
    """Time since the viewer's features last changed; None if nothing is stored of the viewer."""
    request_id: str
    """Id of the request in the server's logs."""
    release_id: str
    """The release that answered."""
    degradations: tuple[Degradation, ...]
    """Ways in which the slate is degraded; empty if it is not."""


def explanation_of(response: ExplainVideoResponse) -> VideoExplanation:
    """Return what a response says."""
    scores = response.task_scores
    return VideoExplanation(
        lost_at=LOST_AT_NUMBERS.get(response.lost_at, LostAt.UNKNOWN) if response.lost_at else None,
        reason=response.reason,
        position=response.position,
        sources=tuple(SOURCE_NUMBERS.get(each, Source.UNKNOWN) for each in response.sources),
        source_ranks=tuple(
            SourceRank(SOURCE_NUMBERS.get(each.source, Source.UNKNOWN), each.rank, each.proposed)
            for each in response.source_ranks
        ),
        retrieval_rank=response.retrieval_rank,
        candidates=response.candidates,
        retrieval_scores={each.name: each.value for each in response.retrieval_scores},
        score=response.score,
        score_factor=response.score_factor,
        task_scores=task_scores_of(scores) if response.HasField("task_scores") else None,
        task_weights={each.name: each.value for each in response.task_weights},
        ranking_features={each.name: each.value for each in response.ranking_features},
        features_age=(
            response.features_age.ToTimedelta() if response.HasField("features_age") else None
        ),
        request_id=response.request_id,
        release_id=response.release_id,
        degradations=degradations_of(response),
    )
