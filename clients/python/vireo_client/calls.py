"""Calls: the methods of the server, the requests for them, and how they are retried."""

from __future__ import annotations

import json
import random
import time as clock
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from itertools import islice
from operator import attrgetter
from typing import Any, TypedDict

import grpc

from vireo_client import messages as pb
from vireo_client._generated.enums import SURFACE_NUMBERS, Surface
from vireo_client.errors import InvalidRequest, Overloaded, Unavailable, VireoError
from vireo_client.inputs import Filter, RequestProfile, SessionVideo
from vireo_client.slate import Slate, explanation_of, slate_of

Metadata = Sequence[tuple[str, str | bytes]]

TABLE: Any = json.loads(files("vireo_client").joinpath("_generated", "retries.json").read_text())
"""What is retried, and after how long: the clients of all languages share it."""
REPEAT, RESUME = TABLE["repeat"], TABLE["batch"]

MAX_VIEWERS: int = RESUME["maxViewers"]
"""Maximum viewers of one call of a batch."""
STREAM_SECONDS: float = RESUME["streamTimeoutSeconds"]
"""Timeout of a call with a stream: more than the 300 s after which the server ends it."""
_RECONNECT = timedelta(seconds=REPEAT["delaySeconds"])
"""Delay before a retry that no server asked for."""
_FIRST_PAUSE: float = RESUME["minPauseSeconds"]
"""Seconds before the first call that continues one of a batch that failed; later they double."""
_MAX_JITTER: float = 1 + TABLE["jitter"]
_RESUMED, _READS, _WRITES = (
    frozenset(grpc.StatusCode[name] for name in names)
    for names in (RESUME["codes"], REPEAT["reads"], REPEAT["writes"])
)
_REPEATED = {False: _READS, True: _WRITES}
"""After which codes a call is repeated, by whether it writes."""
_SURFACES = {surface: number for number, surface in SURFACE_NUMBERS.items()}


@dataclass(frozen=True)
class Method:
    """A method of the server."""

    service: str
    name: str
    result: Callable[[Any], Any]
    """Returns what a caller gets of a response."""
    kind: str = "unary_unary"
    """Name of the channel's method that makes it callable."""

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.service != _SLATES

    def on(self, channel: Any) -> Any:
        """Return what makes calls of it on a channel."""
        request, response = getattr(pb, f"{self.name}Request"), getattr(pb, f"{self.name}Response")
        path = f"/vireo.v1.{self.service}/{self.name}"
        return getattr(channel, self.kind)(path, request.SerializeToString, response.FromString)


def _slate_of_one(response: pb.BatchRecommendResponse) -> tuple[str, Slate]:
    return response.viewer_id, slate_of(response.slate)


_SLATES = "RecommendationService"
RECOMMEND = Method(_SLATES, "Recommend", slate_of)
SIMILAR_VIDEOS = Method(_SLATES, "SimilarVideos", slate_of)
EXPLAIN_VIDEO = Method(_SLATES, "ExplainVideo", explanation_of)
BATCH = Method(_SLATES, "BatchRecommend", _slate_of_one, "unary_stream")
RECORD_EVENTS = Method("EventService", "RecordEvents", attrgetter("recorded"))
STREAM_EVENTS = Method("EventService", "StreamEvents", attrgetter("recorded"), "stream_unary")
UPSERT_VIDEOS = Method("CatalogService", "UpsertVideos", attrgetter("upserted"))
REMOVE_VIDEOS = Method("CatalogService", "RemoveVideos", attrgetter("removed"))
METHODS = (
    RECOMMEND,
    SIMILAR_VIDEOS,
    EXPLAIN_VIDEO,
    BATCH,
    RECORD_EVENTS,
    STREAM_EVENTS,
    UPSERT_VIDEOS,
    REMOVE_VIDEOS,
)


class CallArguments(TypedDict, total=False):
    """The arguments of any call."""

    timeout: float | None
    """Timeout of this call in seconds; the client's if None."""
    request_id: str
    """Id for the server's logs, printable ASCII of at most 128 characters; generated if empty."""
    metadata: Metadata
    """Further headers in lower case, for example `traceparent`."""


class SlateArguments(TypedDict, total=False):
    """The arguments that all requests for slates have."""

    page_size: int | None
    filter: Filter | None
    device: str
    locale: str
    time: datetime | None
    time_zone: str
    region: str


class AskArguments(SlateArguments, total=False):
    """The arguments of `recommend` that its slate depends on, but for the viewer and the page."""

    surface: Surface
    seed_video_id: str
    excluded_video_ids: Iterable[str]
    profile: RequestProfile | None
    session: Iterable[SessionVideo]


class SimilarArguments(SlateArguments, CallArguments, total=False):
    """The arguments of `similar` beside what it is asked about."""

    excluded_video_ids: Iterable[str]


class ExplainArguments(AskArguments, CallArguments, total=False):
    """The arguments of `explain_video` beside what it is asked about."""


class PageArguments(AskArguments, CallArguments, total=False):
    """The arguments of `pages`, which are those of `recommend`."""

    page_token: str
    explain: bool


ARGUMENTS = frozenset(PageArguments.__optional_keys__)
"""The names of all arguments that a call may have by keyword alone."""


def recommend_request(
    viewer_id: str, asked: AskArguments, page_token: str = "", *, explain: bool = False
) -> pb.RecommendRequest:
    """Return the request of `recommend`; raise ValueError for a value that none can hold."""
    surface = _SURFACES[Surface(asked.get("surface", Surface.HOME))]
    request = pb.RecommendRequest(
        viewer_id=viewer_id,
        surface=surface,  # type: ignore[arg-type]
        seed_video_id=asked.get("seed_video_id", ""),
        excluded_video_ids=asked.get("excluded_video_ids", ()),
        page_token=page_token,
        explain=explain,
    )
    set_slate_arguments(request, asked)
    if (profile := asked.get("profile")) is not None:
        request.profile.CopyFrom(profile.message())
    for each in asked.get("session", ()):
        request.session.add(video_id=each.video_id, action=each.action_number)
    return request


def set_slate_arguments(
    request: pb.RecommendRequest | pb.SimilarVideosRequest | pb.BatchRecommendRequest,
    asked: SlateArguments | AskArguments,
) -> None:
    """Set size, filter and context of a request as far as they are given."""
    if (page_size := asked.get("page_size")) is not None:
        request.page_size = page_size
    if (wanted := asked.get("filter")) is not None:
        request.filter.CopyFrom(wanted.message())
    for name in ("device", "locale", "time_zone", "region"):
        if text := asked.get(name):
            setattr(request.context, name, text)
    if (time := asked.get("time")) is not None:
        request.context.time.FromDatetime(time)


@dataclass(frozen=True)
class Call:
    """One call, before it is made."""

    method: Method
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


def identity(request_id: str) -> str:
    """Return the caller's request id, or a new one if it is empty.

    Raises:
        ValueError: it is not printable ASCII, which a header requires.
    """
    if not (request_id.isascii() and request_id.isprintable()):
        raise ValueError(f"a request id is printable ASCII, not {request_id!r}")
    return request_id or uuid.uuid4().hex


class CallBudget:
    """A deadline, and a number of retries after an overload."""

    def __init__(self, call: Call, repeats: int) -> None:
        """Start the time; `repeats` is the maximum number of retries after the server's delay."""
        self._ends = clock.monotonic() + call.timeout
        self._repeats = repeats
        self._repeated = _REPEATED[call.method.writes]

    def left(self) -> float:
        """Return the seconds until the deadline; 0 if it has passed."""
        return max(0.0, self._ends - clock.monotonic())

    def pause(self, error: VireoError) -> float:
        """Return the seconds to wait before a retry; raise `error` if there is none.

        It is retried if the server is overloaded, or can't write what is to be written, and its
        retry delay ends before the deadline.
        """
        if error.code not in self._repeated or not self._repeats:
            raise error
        after = error.retry_after
        if after is None:
            if not isinstance(error, Unavailable):
                raise error
            after = _RECONNECT  # the connection was lost: nothing else repeats this call
        # Jitter: clients that were shed together must not retry together.
        seconds = after.total_seconds() * random.uniform(1.0, _MAX_JITTER)  # noqa: S311
        if seconds >= self.left():
            raise error
        self._repeats -= 1
        return max(0.0, seconds)


def batch_parts(
    viewer_ids: Iterable[str],
    asked: SlateArguments,
    patience: float,
    request_id: str,
    metadata: Metadata,
) -> Iterator[BatchPart]:
    """Yield the parts of a batch of any number of viewers, each of one call if nothing fails.

    Raises:
        InvalidRequest: a value that no message can hold.
    """
    viewers = iter(viewer_ids)
    while part := list(islice(viewers, MAX_VIEWERS)):

        def build(part: list[str] = part) -> pb.BatchRecommendRequest:
            request = pb.BatchRecommendRequest(viewer_ids=part)
            set_slate_arguments(request, asked)
            return request

        call = Call(BATCH, build, STREAM_SECONDS, request_id, metadata)
        yield BatchPart(call, patience)


class BatchPart:
    """A part of a batch that one request asks for, and how far it is."""

    def __init__(self, call: Call, patience: float) -> None:
        """Begin; `patience` is the maximum seconds for which calls may fail in a row."""
        self.call = call
        self.request: pb.BatchRecommendRequest = call.message()
        """The request for what is left."""
        self._patience = patience
        self._ends: float | None = None
        """When to give up, on the monotonic clock; None unless calls fail."""
        self._pause = _FIRST_PAUSE

    def take(self, response: pb.BatchRecommendResponse) -> tuple[str, Slate]:
        """Return the viewer and the slate of a response, and continue after it from now on."""
        self.request.resume_token = response.resume_token
        self._ends, self._pause = None, _FIRST_PAUSE
        viewer, slate = self.call.method.result(response)
        return viewer, slate

    def pause(self, error: VireoError, *, closed: bool) -> float:
        """Return the seconds to wait before the next call after one that failed.

        Raises `error` if there is none: it can't be mended so, has lasted for too long, or the
        client is closed.
        """
        after = error.retry_after
        too_large = isinstance(error, Overloaded) and after is None
        pause = max(self._pause, after.total_seconds() if after else 0.0)
        now = clock.monotonic()
        self._ends = self._ends or now + self._patience
        late = now + pause > self._ends
        if error.code not in _RESUMED or too_large or late or closed:
            raise error
        self._pause = min(2 * self._pause, RESUME["maxPauseSeconds"])
        return pause * random.uniform(1.0, _MAX_JITTER)  # noqa: S311


class Sent(Iterable[Any]):
    """The requests of a stream: remembers what a caller's own iterator raises, which gRPC hides."""

    def __init__(self, call: Call) -> None:
        """Read from the requests of a call."""
        self._call = call
        self._raised: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._call.build()
        except Exception as error:
            self._raised = error
            raise

    def reraise(self) -> None:
        """Raise what ended the iterator, if anything but its end did."""
        if isinstance(self._raised, ValueError):
            raise self._call.invalid(self._raised) from self._raised
        if self._raised is not None:
            raise self._raised
