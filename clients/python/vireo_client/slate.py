"""What a client gets: one slate, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from vireo_client._generated.enums import (
    DEGRADATION_NUMBERS,
    SOURCE_NUMBERS,
    Degradation,
    Source,
)
from vireo_client.messages import ExplanationMessage, RecommendResponse, SlateItemMessage


@dataclass(frozen=True, slots=True)
class TaskScores:
    """The score of each task for one video, probabilities from 0 to 1."""

    watch: float
    """That the viewer will watch it, among the candidates drawn for this viewer."""
    like: float
    """That the viewer will like it, given that it is watched."""


@dataclass(frozen=True, slots=True)
class SlateItem:
    """One video of a slate."""

    video_id: str
    """Your own id of the video."""
    score: float
    """Orders the slate, higher is better; comparable within one slate only."""
    position: int
    """Rank in the slate, from 1."""
    task_scores: TaskScores | None
    """None when ranking was skipped."""
    sources: tuple[Source, ...]
    """Who proposed it; empty in a popular fallback."""
    title: str
    """Only with `explain`, else empty."""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What one candidate source did."""

    source: Source
    proposed: int
    """How many candidates it proposed."""
    failure: str
    """Why it failed; empty when it did not."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """How an answer came about."""

    features_time: timedelta
    """Time to read the viewer's features."""
    retrieval_time: timedelta
    """Time of the candidate call."""
    ranking_time: timedelta
    """Time of the ranking call."""
    sources: tuple[SourceReport, ...]
    """What each candidate source did."""
    candidates: int
    """How many candidates were ranked."""
    history_length: int
    """How many videos were in the viewer's history; 0 is a cold start."""


@dataclass(frozen=True, slots=True)
class Slate:
    """The videos for one viewer, best first."""

    items: tuple[SlateItem, ...]
    request_id: str
    """Identifies this answer in the server's logs."""
    release_id: str
    """The release that answered."""
    degradations: tuple[Degradation, ...]
    """Every way in which this answer is less than full; empty when all is well."""
    explanation: Explanation | None
    """Only with `explain`."""


def slate_of(response: RecommendResponse) -> Slate:
    """The slate that a response holds."""
    return Slate(
        items=tuple(_item(each) for each in response.items),
        request_id=response.request_id,
        release_id=response.release_id,
        degradations=tuple(
            DEGRADATION_NUMBERS.get(each, Degradation.UNKNOWN) for each in response.degradations
        ),
        explanation=(
            _explanation(response.explanation) if response.HasField("explanation") else None
        ),
    )


def _item(item: SlateItemMessage) -> SlateItem:
    scores = item.task_scores
    return SlateItem(
        video_id=item.video_id,
        score=item.score,
        position=item.position,
        task_scores=(
            TaskScores(scores.watch, scores.like) if item.HasField("task_scores") else None
        ),
        sources=tuple(_source(each) for each in item.sources),
        title=item.title,
    )


def _explanation(explanation: ExplanationMessage) -> Explanation:
    return Explanation(
        features_time=explanation.features_time.ToTimedelta(),
        retrieval_time=explanation.retrieval_time.ToTimedelta(),
        ranking_time=explanation.ranking_time.ToTimedelta(),
        sources=tuple(
            SourceReport(_source(each.source), each.proposed, each.failure)
            for each in explanation.sources
        ),
        candidates=explanation.candidates,
        history_length=explanation.history_length,
    )


def _source(number: int) -> Source:
    return SOURCE_NUMBERS.get(number, Source.UNKNOWN)
