"""The responses of calls: slates, and explanations of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from vireo_client import messages as pb
from vireo_client._generated.enums import (
    DEGRADATION_NUMBERS,
    LOST_AT_NUMBERS,
    SOURCE_NUMBERS,
    Degradation,
    LostAt,
    Source,
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

    def __iter__(self) -> Iterator[SlateItem]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __bool__(self) -> bool:
        """Return True, also if there is no video: a slate came."""
        return True


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


def slate_of(response: pb.RecommendResponse | pb.SimilarVideosResponse) -> Slate:
    """Return the slate of a response; one of similar videos has neither explanation nor pages."""
    whole = response if isinstance(response, pb.RecommendResponse) else pb.RecommendResponse()
    return Slate(
        items=tuple(_item(each) for each in response.items),
        request_id=response.request_id,
        release_id=response.release_id,
        degradations=_degradations(response.degradations),
        explanation=_explanation(whole.explanation) if whole.HasField("explanation") else None,
        next_page_token=whole.next_page_token,
        filter_unmet=response.filter_unmet,
    )


def explanation_of(response: pb.ExplainVideoResponse) -> VideoExplanation:
    """Return what a response says."""
    scores = response.task_scores
    return VideoExplanation(
        lost_at=LOST_AT_NUMBERS.get(response.lost_at, LostAt.UNKNOWN) if response.lost_at else None,
        reason=response.reason,
        position=response.position,
        sources=tuple(_source(each) for each in response.sources),
        source_ranks=tuple(
            SourceRank(_source(each.source), each.rank, each.proposed)
            for each in response.source_ranks
        ),
        retrieval_rank=response.retrieval_rank,
        candidates=response.candidates,
        retrieval_scores={each.name: each.value for each in response.retrieval_scores},
        score=response.score,
        score_factor=response.score_factor,
        task_scores=_task_scores(scores) if response.HasField("task_scores") else None,
        task_weights={each.name: each.value for each in response.task_weights},
        ranking_features={each.name: each.value for each in response.ranking_features},
        features_age=(
            response.features_age.ToTimedelta() if response.HasField("features_age") else None
        ),
        request_id=response.request_id,
        release_id=response.release_id,
        degradations=_degradations(response.degradations),
    )


def _degradations(numbers: Iterable[int]) -> tuple[Degradation, ...]:
    return tuple(DEGRADATION_NUMBERS.get(each, Degradation.UNKNOWN) for each in numbers)


def _task_scores(scores: pb.TaskScores) -> TaskScores:
    finish = scores.finish if scores.HasField("finish") else None
    hide = scores.hide if scores.HasField("hide") else None
    return TaskScores(scores.watch, scores.like, finish, hide)


def _item(item: pb.SlateItem) -> SlateItem:
    scores = item.task_scores
    return SlateItem(
        video_id=item.video_id,
        score=item.score,
        position=item.position,
        task_scores=_task_scores(scores) if item.HasField("task_scores") else None,
        sources=tuple(_source(each) for each in item.sources),
        title=item.title,
    )


def _explanation(explanation: pb.Explanation) -> Explanation:
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
