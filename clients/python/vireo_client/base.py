"""The methods of both clients, and what they say of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar, Unpack

from vireo_client import messages as pb
from vireo_client._generated.enums import Surface
from vireo_client.calls import (
    EXPLAIN_VIDEO,
    RECOMMEND,
    RECORD_EVENTS,
    REMOVE_VIDEOS,
    SIMILAR_VIDEOS,
    STREAM_EVENTS,
    STREAM_SECONDS,
    UPSERT_VIDEOS,
    BatchPart,
    Call,
    CallArguments,
    ExplainArguments,
    Metadata,
    PageArguments,
    SimilarArguments,
    SlateArguments,
    batch_parts,
    identity,
    recommend_request,
    set_slate_arguments,
)
from vireo_client.connection import Connection
from vireo_client.inputs import Event, Filter, RequestProfile, SessionVideo, Video, check_zone

Answer = TypeVar("Answer")
"""A slate, or an awaitable of one."""
Count = TypeVar("Count")
"""A number, or an awaitable of one."""
Slates = TypeVar("Slates")
"""An iterator of viewers and their slates, or an asynchronous one."""
Explained = TypeVar("Explained")
"""A `VideoExplanation`, or an awaitable of one."""


class BaseClient(Connection, Generic[Answer, Count, Slates, Explained]):
    """One connection to a Vireo stack, for any number of calls."""

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
        time_zone: str = "",
        region: str = "",
        profile: RequestProfile | None = None,
        filter: Filter | None = None,  # noqa: A002
        session: Iterable[SessionVideo] = (),
        page_token: str = "",
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
            device: kind of device: "phone", "tablet", "tv" or "desktop"; others count as unknown.
            locale: BCP 47 language tag of the viewer's device, for what is trending there; at most
                35 bytes, for example "de-CH".
            time: when the slate will be shown, with its time zone; now if None.
            time_zone: the viewer's time zone, for example "Europe/Zurich" or "+02:00"; if empty,
                the hour and the weekday there are unknown, whatever the zone of `time`.
            region: where the viewer is, for the site's rules: for example "DE", at most 16 bytes.
            profile: what you know of the viewer yourself.
            filter: which videos may be returned; all of them if None.
            session: what the viewer did in this session without watching it, oldest first: at most
                32 videos. It is not stored.
            page_token: the `next_page_token` of the page before, to continue its slate; empty for
                a new one. Of the other arguments only page_size, time, explain and those of the
                call itself may differ; `pages` follows the tokens.
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
        how = ExplainArguments(
            page_size=page_size,
            surface=surface,
            seed_video_id=seed_video_id,
            excluded_video_ids=excluded_video_ids,
            device=device,
            locale=locale,
            time=time,
            time_zone=time_zone,
            region=region,
            profile=profile,
            filter=filter,
            session=session,
            timeout=timeout,
            request_id=request_id,
            metadata=metadata,
        )
        build = partial(recommend_request, viewer_id, how, page_token, explain=explain)
        answer: Answer = self._send(self._call(RECOMMEND, build, how))
        return answer

    def similar(self, video_id: str, **how: Unpack[SimilarArguments]) -> Answer:
        """Return the videos that are most like one, best first, for no viewer in particular.

        Args:
            video_id: your own id of the video; never returned.
            **how: excluded_video_ids, page_size, filter, device, locale, time, time_zone, region,
                timeout, request_id and metadata, as for `recommend`.

        Raises:
            NotFound: the video is unknown.
            VireoError: as for `recommend`.
            ValueError: as for `recommend`.
        """

        def build() -> pb.SimilarVideosRequest:
            excluded = how.get("excluded_video_ids", ())
            request = pb.SimilarVideosRequest(video_id=video_id, excluded_video_ids=excluded)
            set_slate_arguments(request, how)
            return request

        answer: Answer = self._send(self._call(SIMILAR_VIDEOS, build, how))
        return answer

    def explain_video(
        self, video_id: str, viewer_id: str, **how: Unpack[ExplainArguments]
    ) -> Explained:
        """Return at which stage of a viewer's slate a video was lost, and why, or its place.

        It costs two to three times as much as `recommend`, whose arguments it has, but for
        page_token and explain, and whose exceptions. An unknown video is no error: `reason` says
        so.

        Args:
            video_id: your own id of the video.
            viewer_id: as for `recommend`.
            **how: as for `recommend`.

        Raises:
            VireoError: as for `recommend`.
            ValueError: as for `recommend`.
        """

        def build() -> pb.ExplainVideoRequest:
            request = recommend_request(viewer_id, how)
            return pb.ExplainVideoRequest(request=request, video_id=video_id)

        answer: Explained = self._send(self._call(EXPLAIN_VIDEO, build, how))
        return answer

    def batch(
        self,
        viewer_ids: Iterable[str],
        *,
        patience: float = 120.0,
        request_id: str = "",
        metadata: Metadata = (),
        **slate: Unpack[SlateArguments],
    ) -> Slates:
        """Return an iterator of (viewer id, slate) for many viewers, in their order.

        The slates are made while the server has nothing more urgent to do, for mail and push. A
        call that ends early, for example because its gateway restarts, is resumed on another one:
        each viewer comes once, and no slate lacks a stage because of an overload.

        Args:
            viewer_ids: any number of viewers; read by 10,000, as their slates are read.
            patience: maximum seconds for which calls may fail without any slate, before the last
                error is raised.
            request_id: as for `recommend`; the same for all slates.
            metadata: as for `recommend`.
            **slate: page_size, filter, device, locale, time, time_zone and region, as for
                `recommend`.

        Raises:
            VireoError: as for `recommend`; the slates before it are whole.
            ValueError: as for `recommend`.
        """
        self._check_open()
        check_zone(slate.get("time"))
        parts = batch_parts(viewer_ids, slate, patience, identity(request_id), metadata)
        slates: Slates = self._batch(parts)
        return slates

    def record_events(
        self,
        events: Iterable[Event],
        **how: Unpack[CallArguments],
    ) -> Count:
        """Record what viewers did, all of it or nothing; return the number of events.

        If it fails, send the same events again: each counts once, by its `event_id`. While they
        can't be stored, that is done once, after the server's delay.

        Args:
            events: 1 to 1,000 events.
            **how: timeout, the client's and at least 5 if None; request_id and metadata as for
                `recommend`.

        Raises:
            InvalidRequest: an event is invalid, and none was recorded; `violations` has the fields.
            Unavailable: the events can't be stored now; try again after `retry_after`.
            Overloaded: this client is too fast; try again after `retry_after`.
            VireoError: as for `recommend`.
        """

        def build() -> pb.RecordEventsRequest:
            return pb.RecordEventsRequest(events=[each.message() for each in events])

        recorded: Count = self._send(self._call(RECORD_EVENTS, build, how))
        return recorded

    def stream_events(
        self,
        batches: Iterable[Iterable[Event]],
        **how: Unpack[CallArguments],
    ) -> Count:
        """Record batches of events in order, without waiting for each; return the number of events.

        The server ends a stream after 300 s, or 30 s after its last batch, with `Unavailable`.

        Args:
            batches: each of 1 to 1,000 events; read as fast as they are sent.
            **how: timeout of the whole stream, 320 s if None; request_id and metadata as for
                `recommend`.

        Raises:
            VireoError: as for `record_events`; `recorded` says how many events of the stream were
                recorded: all of the batches before the one that failed. It isn't retried.
        """

        def build() -> Iterator[pb.StreamEventsRequest]:
            for batch in batches:
                yield pb.StreamEventsRequest(events=[each.message() for each in batch])

        if how.get("timeout") is None:
            how["timeout"] = STREAM_SECONDS
        recorded: Count = self._stream(self._call(STREAM_EVENTS, build, how))
        return recorded

    def upsert_videos(
        self,
        videos: Iterable[Video],
        *,
        restore: bool = False,
        **how: Unpack[CallArguments],
    ) -> Count:
        """Add videos to the catalogue, or replace what is known of them; return their number.

        Args:
            videos: 1 to 1,000 videos with different ids.
            restore: whether to show those again that were removed.
            **how: timeout, the client's and at least 5 if None; request_id and metadata as for
                `recommend`.

        Raises:
            VireoError: as for `record_events`.
        """

        def build() -> pb.UpsertVideosRequest:
            return pb.UpsertVideosRequest(
                videos=[each.message() for each in videos], restore=restore
            )

        upserted: Count = self._send(self._call(UPSERT_VIDEOS, build, how))
        return upserted

    def remove_videos(
        self,
        video_ids: Iterable[str],
        **how: Unpack[CallArguments],
    ) -> Count:
        """Remove videos from every slate until they are restored; return their number.

        Args:
            video_ids: 1 to 1,000 different ids; unknown ones too.
            **how: timeout, the client's and at least 5 if None; request_id and metadata as for
                `recommend`.

        Raises:
            VireoError: as for `record_events`.
        """
        build = partial(pb.RemoveVideosRequest, video_ids=video_ids)
        removed: Count = self._send(self._call(REMOVE_VIDEOS, build, how))
        return removed

    def _first_page(self, viewer_id: str, how: PageArguments) -> pb.RecommendRequest:
        """Return the request for the first of some pages; others differ by their token alone."""
        token, explain = how.get("page_token", ""), how.get("explain", False)
        build = partial(recommend_request, viewer_id, how, token, explain=explain)
        request: pb.RecommendRequest = self._call(RECOMMEND, build, how).message()
        return request

    @abstractmethod
    def _send(self, call: Call) -> Any:
        """Make one call."""

    @abstractmethod
    def _stream(self, call: Call) -> Any:
        """Make one call with a stream of requests."""

    @abstractmethod
    def _batch(self, parts: Iterator[BatchPart]) -> Any:
        """Return an iterator of a batch's viewers and slates."""
