"""The response of a call: a slate and its explanation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from vireo_client._generated.enums import (
    DEGRADATION_NUMBERS,
    SOURCE_NUMBERS,
    Degradation,
    Source,
)
from vireo_client.messages import (
    ExplainVideoResponse,
    ExplanationMessage,
    RecommendResponse,
    SimilarVideosResponse,
    SlateItemMessage,
    TaskScoresMessage,
)


@dataclass(frozen=True, slots=True)
class TaskScores:
    """Scores of the ranking tasks for one video: probabilities from 0 to 1."""

    watch: float
    """Probability that the viewer watches it, among the candidates for this viewer."""
    like: float
    """Probability that the viewer likes it, given that it is watched."""
    finish: float | None = None
    """Probability that it is watched to its end, given that it is watched; None if unknown."""
    hide: float | None = None
    """Probability that the viewer hides it, given that it is watched or hidden; None if unknown."""


@dataclass(frozen=True, slots=True)
class SlateItem:
    """One video of a slate."""

    video_id: str
    """Your own id of the video."""
    score: float
    """Score that the slate is sorted by, higher is better; comparable within one slate only."""
    position: int
    """Rank in the slate, from 1."""
    task_scores: TaskScores | None
    """None if ranking was skipped."""
    sources: tuple[Source, ...]
    """Candidate sources that proposed it; empty in a popular fallback."""
    title: str
    """Only with `explain`, else empty."""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """Result of one candidate source."""

    source: Source
    proposed: int
    """Number of candidates that it proposed."""
    failure: str
    """Why it failed; empty if it did not."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a slate was made."""

    features_time: timedelta
    """Time to read the viewer's features."""
    retrieval_time: timedelta
    """Time of the candidate call."""
    ranking_time: timedelta
    """Time of the ranking call."""
    sources: tuple[SourceReport, ...]
    """Result of each candidate source."""
    candidates: int
    """Number of candidates that were ranked."""
    history_length: int
    """Number of videos in the viewer's history; 0 is a cold start."""
    filter_share: float | None = None
    """Share of the release's videos that meet the filter, 0 to 1; None without a filter, and if
    retrieval failed."""


@dataclass(frozen=True, slots=True)
class Slate:
    """The videos for one viewer, best first."""

    items: tuple[SlateItem, ...]
    request_id: str
    """Id of the request in the server's logs."""
    release_id: str
    """The release that made the slate."""
    degradations: tuple[Degradation, ...]
    """Ways in which the response is degraded; empty if it is not."""
    explanation: Explanation | None
    """Only with `explain`."""
    next_page_token: str = ""
    """The `page_token` of the next page; empty if there are no more videos."""
    filter_unmet: bool = False
    """Whether `items` is empty because no video of the catalogue meets the filter and the site's
    rules; in a popular fallback, because no video of the popular list does."""


def slate_of(response: RecommendResponse) -> Slate:
    """Return the slate of a response."""
    return Slate(
        items=tuple(_item(each) for each in response.items),
        request_id=response.request_id,
        release_id=response.release_id,
        degradations=degradations_of(response),
        explanation=(
            _explanation(response.explanation) if response.HasField("explanation") else None
        ),
        next_page_token=response.next_page_token,
        filter_unmet=response.filter_unmet,
    )


def similar_slate_of(response: SimilarVideosResponse) -> Slate:
    """Return the slate of videos like one."""
    return Slate(
        items=tuple(_item(each) for each in response.items),
        request_id=response.request_id,
        release_id=response.release_id,
        degradations=degradations_of(response),
        explanation=None,
        filter_unmet=response.filter_unmet,
    )


def degradations_of(
    response: RecommendResponse | SimilarVideosResponse | ExplainVideoResponse,
) -> tuple[Degradation, ...]:
    """Return the ways in which a response is degraded."""
    return tuple(
        DEGRADATION_NUMBERS.get(each, Degradation.UNKNOWN) for each in response.degradations
    )


def task_scores_of(scores: TaskScoresMessage) -> TaskScores:
    """Return the scores of a message."""
    finish = scores.finish if scores.HasField("finish") else None
    hide = scores.hide if scores.HasField("hide") else None
    return TaskScores(scores.watch, scores.like, finish, hide)


def _item(item: SlateItemMessage) -> SlateItem:
    scores = item.task_scores
    return SlateItem(
        video_id=item.video_id,
        score=item.score,
        position=item.position,
        task_scores=task_scores_of(scores) if item.HasField("task_scores") else None,
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
        filter_share=explanation.filter_share if explanation.HasField("filter_share") else None,
    )


def _source(number: int) -> Source:
    return SOURCE_NUMBERS.get(number, Source.UNKNOWN)
