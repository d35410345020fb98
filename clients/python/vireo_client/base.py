"""The base of both clients: construction and the methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Generic, TypeVar

import grpc

from vireo_client._generated.enums import Surface
from vireo_client.channel import Options, channel_options
from vireo_client.credentials import BearerToken, Tls
from vireo_client.event import Event, Video
from vireo_client.messages import (
    RecordEventsRequest,
    RemoveVideosRequest,
    StreamEventsRequest,
    UpsertVideosRequest,
)
from vireo_client.methods import (
    RECOMMEND,
    RECORD_EVENTS,
    REMOVE_VIDEOS,
    STREAM_EVENTS,
    UPSERT_VIDEOS,
    Method,
)
from vireo_client.profile import RequestProfile
from vireo_client.request import Ask, Call, Metadata, identity
from vireo_client.times import check_zone

_WRITE_SECONDS = 5.0  # the server's own default
_STREAM_SECONDS = 320.0
"""More than the 300 s after which the server ends a stream, and says what it recorded."""

Answer = TypeVar("Answer")
"""A slate, or an awaitable of one."""
Count = TypeVar("Count")
"""A number, or an awaitable of one."""


class BaseClient(Generic[Answer, Count]):
    """One connection to a Vireo stack, for any number of calls."""

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | None = None,
        token: str | Callable[[], str] | None = None,
        timeout: float = 1.0,
        attempts: int = 3,
        options: Options = (),
    ) -> None:
        """Prepare a connection, which is opened on the first call and reopened if lost.

        Args:
            target: `host:port`, or another name that gRPC resolves, such as `dns:///host:port`.
            tls: trusted authorities, and the client certificate if any; None for plaintext.
            token: bearer token, or a function that returns the current one; it is called for
                every call, from any thread, and must not block. Needs `tls`.
            timeout: timeout of a call in seconds, with retries; 5 or more but for `recommend`.
            attempts: maximum attempts of `recommend` if it gets UNAVAILABLE, 1 to 5. Unless it is
                1, a call that an overloaded server shed, or of events or the catalogue that gets
                UNAVAILABLE, is retried once after the server's delay, if the timeout allows it.
            options: further gRPC channel arguments, which take precedence over the client's.

        Raises:
            ValueError: attempts is out of bounds, or there is a token without TLS.
        """
        if token is not None and tls is None:
            raise ValueError("a token must not be sent in plain text: pass tls too")
        self._token = BearerToken(token) if token is not None else None
        self._timeout = timeout
        self._repeats = 1 if attempts > 1 else 0
        self._closed = False
        credentials = tls.channel_credentials() if tls else None
        self._open(target, credentials, channel_options(attempts, options))

    def recommend(
        self,
        viewer_id: str,
        *,
        page_size: int | None = None,
        surface: Surface = Surface.HOME,
        seed_video_id: str = "",
        excluded_video_ids: Iterable[str] = (),
        device: str = "",
        locale: str = "",
        time: datetime | None = None,
        profile: RequestProfile | None = None,
        explain: bool = False,
        timeout: float | None = None,
        request_id: str = "",
        metadata: Metadata = (),
    ) -> Answer:
        """Return the slate for a viewer, best first.

        Unknown viewers get a slate too.

        Args:
            viewer_id: your own id of the viewer, 1 to 128 bytes of UTF-8.
            page_size: maximum number of videos, 1 to 500; 10 if None.
            surface: where the slate will be shown.
            seed_video_id: the video that is playing; required for `Surface.UP_NEXT`.
            excluded_video_ids: videos not to return, at most 1,000.
            device: not used yet. Kind of device, free text of at most 64 bytes.
            locale: BCP 47 language tag of the viewer's device, for what is trending there; at most
                35 bytes, for example "de-CH".
            time: when the slate will be shown, with its time zone; now if None.
            profile: what you know of the viewer yourself.
            explain: whether to return titles, timings and sources; slightly slower.
            timeout: timeout of this call in seconds; the client's if None.
            request_id: id for the server's logs, printable ASCII of at most 128 characters;
                generated if empty.
            metadata: further headers in lower case, for example `traceparent`.

        Raises:
            InvalidRequest: the request is invalid; `violations` has the fields.
            NotFound: the seed video is unknown.
            Overloaded: the server is overloaded.
            Unavailable: the server is unreachable or not serving.
            DeadlineExceeded: the timeout has passed.
            AccessDenied: the token or certificate was rejected.
            VireoError: the call failed with another code.
            ValueError: the request can't be sent: a time without a zone, an invalid request id,
                or the client is closed.
        """
        check_zone(time)
        ask = Ask(
            viewer_id=viewer_id,
            page_size=page_size,
            surface=surface,
            seed_video_id=seed_video_id,
            excluded_video_ids=excluded_video_ids,
            device=device,
            locale=locale,
            time=time,
            profile=profile,
            explain=explain,
        )
        answer: Answer = self._send(
            self._call(RECOMMEND, ask.message, timeout, request_id, metadata)
        )
        return answer

    def record_events(
        self,
        events: Iterable[Event],
        *,
        timeout: float | None = None,
        request_id: str = "",
        metadata: Metadata = (),
    ) -> Count:
        """Record what viewers did, all of it or nothing; return the number of events.

        If it fails, send the same events again: each counts once, by its `event_id`. While they
        can't be stored, that is done once, after the server's delay.

        Args:
            events: 1 to 1,000 events.
            timeout: timeout of this call in seconds; the client's if None, and at least 5.
            request_id: as for `recommend`.
            metadata: as for `recommend`.

        Raises:
            InvalidRequest: an event is invalid, and none was recorded; `violations` has the fields.
            Unavailable: the events can't be stored now; try again after `retry_after`.
            Overloaded: this client is too fast; try again after `retry_after`.
            VireoError: as for `recommend`.
        """

        def build() -> RecordEventsRequest:
            return RecordEventsRequest(events=[each.message() for each in events])

        call = self._call(RECORD_EVENTS, build, timeout, request_id, metadata)
        recorded: Count = self._send(call)
        return recorded

    def stream_events(
        self,
        batches: Iterable[Iterable[Event]],
        *,
        timeout: float | None = None,
        request_id: str = "",
        metadata: Metadata = (),
    ) -> Count:
        """Record batches of events in order, without waiting for each; return the number of events.

        The server ends a stream after 300 s, or 30 s after its last batch, with `Unavailable`.

        Args:
            batches: each of 1 to 1,000 events; read as fast as they are sent.
            timeout: timeout of the whole stream in seconds; 320 if None.
            request_id: as for `recommend`.
            metadata: as for `recommend`.

        Raises:
            VireoError: as for `record_events`; `recorded` says how many events of the stream were
                recorded: all of the batches before the one that failed. It isn't retried.
        """

        def build() -> Iterator[StreamEventsRequest]:
            for batch in batches:
                yield StreamEventsRequest(events=[each.message() for each in batch])

        seconds = _STREAM_SECONDS if timeout is None else timeout
        call = self._call(STREAM_EVENTS, build, seconds, request_id, metadata)
        recorded: Count = self._stream(call)
        return recorded

    def upsert_videos(
        self,
        videos: Iterable[Video],
        *,
        timeout: float | None = None,
        request_id: str = "",
        metadata: Metadata = (),
    ) -> Count:
        """Add videos to the catalogue, or replace what is known of them; return their number.

        Args:
            videos: 1 to 1,000 videos with different ids.
            timeout: timeout of this call in seconds; the client's if None, and at least 5.
            request_id: as for `recommend`.
            metadata: as for `recommend`.

        Raises:
            VireoError: as for `record_events`.
        """

        def build() -> UpsertVideosRequest:
            return UpsertVideosRequest(videos=[each.message() for each in videos])

        call = self._call(UPSERT_VIDEOS, build, timeout, request_id, metadata)
        upserted: Count = self._send(call)
        return upserted

    def remove_videos(
        self,
        video_ids: Iterable[str],
        *,
        timeout: float | None = None,
        request_id: str = "",
        metadata: Metadata = (),
    ) -> Count:
        """Remove videos from every slate until they are upserted again; return their number.

        Args:
            video_ids: 1 to 1,000 different ids; unknown ones too.
            timeout: timeout of this call in seconds; the client's if None, and at least 5.
            request_id: as for `recommend`.
            metadata: as for `recommend`.

        Raises:
            VireoError: as for `record_events`.
        """

        def build() -> RemoveVideosRequest:
            return RemoveVideosRequest(video_ids=video_ids)

        call = self._call(REMOVE_VIDEOS, build, timeout, request_id, metadata)
        removed: Count = self._send(call)
        return removed

    def _call(
        self,
        method: Method[Any],
        build: Callable[[], Any],
        timeout: float | None,
        request_id: str,
        metadata: Metadata,
    ) -> Call[Any]:
        if timeout is None:
            timeout = max(self._timeout, _WRITE_SECONDS if method.writes else 0)
        return Call(method, build, timeout, identity(request_id), metadata)

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Options
    ) -> None:
        """Open the channel; plaintext without credentials."""
        raise NotImplementedError

    def _send(self, call: Call[Any]) -> Any:
        """Make one call."""
        raise NotImplementedError

    def _stream(self, call: Call[Any]) -> Any:
        """Make one call with a stream of requests."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the client is closed")

    def _call_credentials(self) -> grpc.CallCredentials | None:
        """Return the credentials for one call; None without a token."""
        return self._token.call_credentials() if self._token else None
