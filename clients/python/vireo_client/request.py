"""The requests of calls."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Generic, TypedDict

import grpc

from vireo_client._generated.enums import SURFACE_NUMBERS, Surface
from vireo_client.errors import REQUEST_ID, InvalidRequest
from vireo_client.filter import Filter
from vireo_client.messages import (
    BatchRecommendRequest,
    ExplainVideoRequest,
    RecommendRequest,
    SimilarVideosRequest,
)
from vireo_client.methods import Method, Result
from vireo_client.profile import RequestProfile
from vireo_client.session import SessionVideo
from vireo_client.times import check_zone

Metadata = Sequence[tuple[str, str | bytes]]

_NUMBERS = {surface: number for number, surface in SURFACE_NUMBERS.items()}


@dataclass(frozen=True)
class Call(Generic[Result]):
    """One call, before it is made."""

    method: Method[Result]
    build: Callable[[], Any]
    """Returns the request, or yields those of a stream; raises ValueError for a value that no
    message can hold."""
    timeout: float
    request_id: str
    metadata: Metadata

    def message(self) -> Any:
        """Return the request. The server validates bounds; this only builds the message.

        Raises:
            InvalidRequest: a value that no message can hold.
        """
        try:
            return self.build()
        except ValueError as error:
            raise self.invalid(error) from error

    def invalid(self, error: ValueError) -> InvalidRequest:
        """Return the exception for a value that no message can hold."""
        return InvalidRequest(grpc.StatusCode.INVALID_ARGUMENT, str(error), self.request_id)

    def sent_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the metadata: the request id, and the caller's."""
        return ((REQUEST_ID, self.request_id), *self.metadata)


@dataclass(frozen=True, kw_only=True)
class SlateArguments:
    """The arguments that all requests for slates have; empty or None if they aren't given."""

    page_size: int | None = None
    filter: Filter | None = None
    device: str = ""
    locale: str = ""
    time: datetime | None = None
    time_zone: str = ""
    region: str = ""

    def __post_init__(self) -> None:
        check_zone(self.time)

    def set_filter_and_context(
        self, request: RecommendRequest | SimilarVideosRequest | BatchRecommendRequest
    ) -> None:
        """Set the filter and the context of a request, as far as they are given."""
        if self.filter is not None:
            request.filter.CopyFrom(self.filter.message())
        for name in ("device", "locale", "time_zone", "region"):
            if text := getattr(self, name):
                setattr(request.context, name, text)
        if self.time is not None:
            request.context.time.FromDatetime(self.time)


@dataclass(frozen=True, kw_only=True)
class Ask(SlateArguments):
    """The arguments of `recommend`."""

    viewer_id: str
    surface: Surface = Surface.HOME
    seed_video_id: str = ""
    excluded_video_ids: Iterable[str] = ()
    profile: RequestProfile | None = None
    session: Iterable[SessionVideo] = ()
    page_token: str
    explain: bool

    def message(self) -> RecommendRequest:
        """Return the request message; raise ValueError for a value that no message can hold."""
        request = RecommendRequest(
            viewer_id=self.viewer_id,
            page_size=self.page_size,
            surface=_NUMBERS[Surface(self.surface)],  # type: ignore[arg-type]
            seed_video_id=self.seed_video_id,
            excluded_video_ids=self.excluded_video_ids,
            page_token=self.page_token,
            explain=self.explain,
        )
        self.set_filter_and_context(request)
        if self.profile is not None:
            request.profile.CopyFrom(self.profile.message())
        for each in self.session:
            request.session.add(video_id=each.video_id, action=each.action_number)
        return request


@dataclass(frozen=True, kw_only=True)
class ExplainAsk:
    """The arguments of `explain_video`."""

    video_id: str
    slate: Ask

    def message(self) -> ExplainVideoRequest:
        """Return the request message; raise ValueError for a value that no message can hold."""
        return ExplainVideoRequest(request=self.slate.message(), video_id=self.video_id)


@dataclass(frozen=True, kw_only=True)
class SimilarAsk(SlateArguments):
    """The arguments of `similar`."""

    video_id: str
    excluded_video_ids: Iterable[str]

    def message(self) -> SimilarVideosRequest:
        """Return the request message; raise ValueError for a value that no message can hold."""
        request = SimilarVideosRequest(
            video_id=self.video_id,
            page_size=self.page_size,
            excluded_video_ids=self.excluded_video_ids,
        )
        self.set_filter_and_context(request)
        return request


class AskArguments(TypedDict, total=False):
    """The arguments of `recommend` that its slate depends on, but for the viewer and the page."""

    page_size: int | None
    surface: Surface
    seed_video_id: str
    excluded_video_ids: Iterable[str]
    device: str
    locale: str
    time: datetime | None
    time_zone: str
    region: str
    profile: RequestProfile | None
    filter: Filter | None
    session: Iterable[SessionVideo]


class PageArguments(AskArguments, total=False):
    """The arguments of `pages`, which are those of `recommend`."""

    page_token: str
    explain: bool
    timeout: float | None
    request_id: str
    metadata: Metadata


def repeatable(arguments: PageArguments) -> PageArguments:
    """Return arguments that can be sent several times, whatever iterables they have."""
    kept = PageArguments(**arguments)
    if "excluded_video_ids" in kept:
        kept["excluded_video_ids"] = tuple(kept["excluded_video_ids"])
    if "session" in kept:
        kept["session"] = tuple(kept["session"])
    if (profile := kept.get("profile")) is not None:
        watched, attributes = tuple(profile.history), tuple(profile.attributes)
        kept["profile"] = replace(profile, history=watched, attributes=attributes)
    return kept


def identity(request_id: str) -> str:
    """Return the caller's request id, or a new one if it is empty.

    Raises:
        ValueError: it is not printable ASCII, which a header requires.
    """
    if not (request_id.isascii() and request_id.isprintable()):
        raise ValueError(f"a request id is printable ASCII, not {request_id!r}")
    return request_id or uuid.uuid4().hex
