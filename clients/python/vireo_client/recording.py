"""The methods of both clients that tell what happens: events, and changes of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from vireo_client.connection import Connection
from vireo_client.event import Event, Video
from vireo_client.messages import (
    RecordEventsRequest,
    RemoveVideosRequest,
    StreamEventsRequest,
    UpsertVideosRequest,
)
from vireo_client.methods import RECORD_EVENTS, REMOVE_VIDEOS, STREAM_EVENTS, UPSERT_VIDEOS
from vireo_client.request import Metadata

_STREAM_SECONDS = 320.0
"""More than the 300 s after which the server ends a stream, and says what it recorded."""

Count = TypeVar("Count")
"""A number, or an awaitable of one."""


class Recording(Connection, Generic[Count]):
    """Calls that the server writes to its log."""

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
        restore: bool = False,
        timeout: float | None = None,
        request_id: str = "",
        metadata: Metadata = (),
    ) -> Count:
        """Add videos to the catalogue, or replace what is known of them; return their number.

        Args:
            videos: 1 to 1,000 videos with different ids.
            restore: whether to show those again that were removed.
            timeout: timeout of this call in seconds; the client's if None, and at least 5.
            request_id: as for `recommend`.
            metadata: as for `recommend`.

        Raises:
            VireoError: as for `record_events`.
        """

        def build() -> UpsertVideosRequest:
            return UpsertVideosRequest(videos=[each.message() for each in videos], restore=restore)

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
        """Remove videos from every slate until they are restored; return their number.

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
