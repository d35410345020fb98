"""The methods that the client calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vireo_client.explanation import VideoExplanation, explanation_of
from vireo_client.messages import (
    BatchRecommendRequest,
    BatchRecommendResponse,
    ExplainVideoRequest,
    ExplainVideoResponse,
    RecommendRequest,
    RecommendResponse,
    RecordEventsRequest,
    RecordEventsResponse,
    RemoveVideosRequest,
    RemoveVideosResponse,
    SimilarVideosRequest,
    SimilarVideosResponse,
    StreamEventsRequest,
    StreamEventsResponse,
    UpsertVideosRequest,
    UpsertVideosResponse,
)
from vireo_client.slate import Slate, similar_slate_of, slate_of

Result = TypeVar("Result")

_RECOMMENDATION = "vireo.v1.RecommendationService"
_EVENT = "vireo.v1.EventService"
_CATALOG = "vireo.v1.CatalogService"


@dataclass(frozen=True)
class Method(Generic[Result]):
    """A method of the server."""

    service: str
    name: str
    request: Any
    """Type of its request."""
    response: Any
    """Type of its response."""
    result: Callable[[Any], Result]
    """Returns what a caller gets of a response."""
    writes: bool = True
    """Whether it changes something."""

    @property
    def path(self) -> str:
        """The path of its calls."""
        return f"/{self.service}/{self.name}"


def _recorded(response: RecordEventsResponse | StreamEventsResponse) -> int:
    return response.recorded


def _upserted(response: UpsertVideosResponse) -> int:
    return response.upserted


def _removed(response: RemoveVideosResponse) -> int:
    return response.removed


RECOMMEND: Method[Slate] = Method(
    _RECOMMENDATION, "Recommend", RecommendRequest, RecommendResponse, slate_of, writes=False
)
SIMILAR_VIDEOS: Method[Slate] = Method(
    _RECOMMENDATION,
    "SimilarVideos",
    SimilarVideosRequest,
    SimilarVideosResponse,
    similar_slate_of,
    writes=False,
)
EXPLAIN_VIDEO: Method[VideoExplanation] = Method(
    _RECOMMENDATION,
    "ExplainVideo",
    ExplainVideoRequest,
    ExplainVideoResponse,
    explanation_of,
    writes=False,
)
BATCH: Method[Slate] = Method(
    _RECOMMENDATION,
    "BatchRecommend",
    BatchRecommendRequest,
    BatchRecommendResponse,
    lambda response: slate_of(response.slate),
    writes=False,
)
RECORD_EVENTS: Method[int] = Method(
    _EVENT, "RecordEvents", RecordEventsRequest, RecordEventsResponse, _recorded
)
STREAM_EVENTS: Method[int] = Method(
    _EVENT, "StreamEvents", StreamEventsRequest, StreamEventsResponse, _recorded
)
UPSERT_VIDEOS: Method[int] = Method(
    _CATALOG, "UpsertVideos", UpsertVideosRequest, UpsertVideosResponse, _upserted
)
REMOVE_VIDEOS: Method[int] = Method(
    _CATALOG, "RemoveVideos", RemoveVideosRequest, RemoveVideosResponse, _removed
)
UNARY = (RECOMMEND, SIMILAR_VIDEOS, EXPLAIN_VIDEO, RECORD_EVENTS, UPSERT_VIDEOS, REMOVE_VIDEOS)
"""Those of one message each way, which may be repeated."""
