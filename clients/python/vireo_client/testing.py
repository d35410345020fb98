"""A fake stack for the tests of callers: a real gRPC server that answers what a test says.

with FakeStack({"viewer": ["v1", "v2"]}) as stack, Client(stack.target) as client:
    assert [item.video_id for item in client.recommend("viewer")] == ["v1", "v2"]
    stack.fail(grpc.StatusCode.UNAVAILABLE)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from operator import methodcaller
from threading import Event, Lock
from typing import Any, Self

import grpc

from vireo_client import messages as pb
from vireo_client.calls import METHODS, Method
from vireo_client.errors import FieldViolation

RELEASE = "fake"
_THREADS = 16


@dataclass(frozen=True)
class _Failure:
    code: grpc.StatusCode
    message: str
    details: Sequence[Any] = ()
    after: int = 0
    hangs: bool = False

    def end(self, context: grpc.ServicerContext) -> Any:
        """End a call, which raises."""
        ended = Event()
        if self.hangs and context.add_callback(ended.set):
            ended.wait()
        status = pb.Status(code=self.code.value[0], message=self.message)
        for each in self.details:
            status.details.add().Pack(each)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        return context.abort(self.code, self.message)

    def end_batch(self, slates: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """End a batch after its first slates."""
        yield from islice(slates, self.after)
        self.end(context)


class FakeStack:
    """A server on a free port of 127.0.0.1; start it as a context manager."""

    def __init__(
        self,
        slates: Mapping[str, Sequence[str]] | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """Answer with these videos by viewer id, `DEFAULT` for others; by TLS with credentials."""
        self.slates = dict(slates or {})
        self.requests: list[Any] = []
        """The requests that came, in order, as messages of `vireo.v1`."""
        self.metadata: list[Mapping[str, str | bytes]] = []
        """The metadata of each."""
        self.contexts: list[grpc.ServicerContext] = []
        """The server's side of each call, with its `peer()`, `time_remaining()`, `is_active()`."""
        self.events: dict[str, Any] = {}
        """The events that were recorded, by event id: each counts once."""
        self.videos: dict[str, Any] = {}
        """The videos that were upserted and not removed, by id."""
        self._credentials = credentials
        self._next: list[Any] = []
        self._lock = Lock()
        self._port = 0
        self._server: grpc.Server | None = None

    DEFAULT = ("video-1", "video-2", "video-3")

    @property
    def target(self) -> str:
        """host:port of the server."""
        return f"127.0.0.1:{self._port}"

    def fail(
        self,
        code: grpc.StatusCode,
        message: str = "as the test says",
        *,
        times: int = 1,
        after: int = 0,
        retry_after: timedelta | None = None,
        violations: Iterable[FieldViolation] = (),
    ) -> None:
        """Fail the next calls, with the details that a stack sends; batches `after` some slates.

        What `fail`, `hang` and `answer` were told is kept in order, each for one call. A client
        repeats some calls by itself: those that get UNAVAILABLE `attempts` times.
        """
        details: list[Any] = []
        if retry_after is not None:
            info = pb.RetryInfo()
            info.retry_delay.FromTimedelta(retry_after)
            details.append(info)
        if fields := [*violations]:
            bad = pb.BadRequest()
            for each in fields:
                bad.field_violations.add(field=each.field, description=each.description)
            details.append(bad)
        self._next += [_Failure(code, message, details, after)] * times

    def hang(self, times: int = 1) -> None:
        """Leave the next calls without an answer until they end."""
        self._next += [_Failure(grpc.StatusCode.CANCELLED, "it hangs", hangs=True)] * times

    def answer(self, *responses: Any) -> None:
        """Answer the next calls with these messages of `vireo.v1`; a batch with a list of them."""
        self._next += responses

    def start(self) -> None:
        """Start it, on the port that it had before if it was stopped."""
        server = grpc.server(ThreadPoolExecutor(_THREADS))
        for service in {method.service for method in METHODS}:
            handlers = {
                method.name: self._handler(method)
                for method in METHODS
                if method.service == service
            }
            server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(f"vireo.v1.{service}", handlers)]
            )
        if self._credentials is None:
            self._port = server.add_insecure_port(self.target)
        else:
            self._port = server.add_secure_port(self.target, self._credentials)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Stop it at once, as a kill does; calls under way fail."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _handler(self, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        answer: Callable[[Any], Any] = getattr(self, f"_{method.name}")
        streams = method.kind.startswith("stream")

        def respond(request: Any, context: grpc.ServicerContext) -> Any:
            asked = [*request] if streams else [request]
            with self._lock:
                self.requests += asked
                self.metadata += [dict(context.invocation_metadata())] * len(asked)
                self.contexts.append(context)
                said = self._next.pop(0) if self._next else None
                if said is None:
                    return answer(asked if streams else request)
            batch = method.kind == "unary_stream"
            if not isinstance(said, _Failure):
                return iter(said) if batch else said
            return said.end_batch(answer(request), context) if batch else said.end(context)

        make = getattr(grpc, f"{method.kind}_rpc_method_handler")
        kind = getattr(pb, f"{method.name}Request")
        handler: grpc.RpcMethodHandler[Any, Any] = make(
            respond, kind.FromString, methodcaller("SerializeToString")
        )
        return handler

    def _items(self, viewer_id: str, page_size: int) -> list[Any]:
        videos = self.slates.get(viewer_id, self.DEFAULT)[: page_size or 10]
        return [
            pb.SlateItem(video_id=video, position=place, score=1 / place)
            for place, video in enumerate(videos, start=1)
        ]

    def _Recommend(self, request: Any) -> Any:  # noqa: N802
        items = self._items(request.viewer_id, request.page_size)
        return pb.RecommendResponse(items=items, release_id=RELEASE, request_id="fake")

    def _SimilarVideos(self, request: Any) -> Any:  # noqa: N802
        items = self._items(request.video_id, request.page_size)
        return pb.SimilarVideosResponse(items=items, release_id=RELEASE, request_id="fake")

    def _ExplainVideo(self, request: Any) -> Any:  # noqa: N802
        found = {each.video_id: each for each in self._items(request.request.viewer_id, 500)}
        item = found.get(request.video_id)
        return pb.ExplainVideoResponse(
            position=item.position if item else 0,
            reason="It is on the page." if item else "It isn't one of the fake stack's.",
            release_id=RELEASE,
            request_id="fake",
        )

    def _BatchRecommend(self, request: Any) -> Iterator[Any]:  # noqa: N802
        done = int(request.resume_token or 0)
        for place, viewer_id in enumerate(request.viewer_ids[done:], start=done + 1):
            items = self._items(viewer_id, request.page_size)
            slate = pb.RecommendResponse(items=items, release_id=RELEASE)
            yield pb.BatchRecommendResponse(
                viewer_id=viewer_id, slate=slate, resume_token=str(place)
            )

    def _RecordEvents(self, request: Any) -> Any:  # noqa: N802
        self.events |= {each.event_id: each for each in request.events}
        return pb.RecordEventsResponse(recorded=len(request.events))

    def _StreamEvents(self, requests: Sequence[Any]) -> Any:  # noqa: N802
        recorded = sum(self._RecordEvents(each).recorded for each in requests)
        return pb.StreamEventsResponse(recorded=recorded)

    def _UpsertVideos(self, request: Any) -> Any:  # noqa: N802
        self.videos |= {each.video_id: each for each in request.videos}
        return pb.UpsertVideosResponse(upserted=len(request.videos))

    def _RemoveVideos(self, request: Any) -> Any:  # noqa: N802
        for video_id in request.video_ids:
            self.videos.pop(video_id, None)
        return pb.RemoveVideosResponse(removed=len(request.video_ids))
