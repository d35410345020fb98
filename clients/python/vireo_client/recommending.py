"""The methods of both clients that return slates."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Generic, TypeVar

from vireo_client._generated.enums import Surface
from vireo_client.connection import Connection
from vireo_client.filter import Filter
from vireo_client.methods import RECOMMEND, SIMILAR_VIDEOS
from vireo_client.profile import RequestProfile
from vireo_client.request import Ask, Metadata, SimilarAsk
from vireo_client.session import SessionVideo

Answer = TypeVar("Answer")
"""A slate, or an awaitable of one."""


class Recommending(Connection, Generic[Answer]):
    """Calls for slates."""

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
        ask = Ask(
            viewer_id=viewer_id,
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
            page_token=page_token,
            explain=explain,
        )
        call = self._call(RECOMMEND, ask.message, timeout, request_id, metadata)
        answer: Answer = self._send(call)
        return answer

    def similar(
        self,
        video_id: str,
        *,
        page_size: int | None = None,
        filter: Filter | None = None,  # noqa: A002
        excluded_video_ids: Iterable[str] = (),
        device: str = "",
        locale: str = "",
        time: datetime | None = None,
        time_zone: str = "",
        region: str = "",
        timeout: float | None = None,
        request_id: str = "",
        metadata: Metadata = (),
    ) -> Answer:
        """Return the videos that are most like one, best first, for no viewer in particular.

        Args:
            video_id: your own id of the video; never returned.
            page_size: maximum number of videos, 1 to 500; 10 if None.
            filter: which videos may be returned; all of them if None.
            excluded_video_ids: videos not to return, at most 1,000.
            device: as for `recommend`.
            locale: as for `recommend`.
            time: as for `recommend`.
            time_zone: as for `recommend`.
            region: as for `recommend`.
            timeout: as for `recommend`.
            request_id: as for `recommend`.
            metadata: as for `recommend`.

        Raises:
            NotFound: the video is unknown.
            VireoError: as for `recommend`.
            ValueError: as for `recommend`.
        """
        ask = SimilarAsk(
            video_id=video_id,
            page_size=page_size,
            filter=filter,
            excluded_video_ids=excluded_video_ids,
            device=device,
            locale=locale,
            time=time,
            time_zone=time_zone,
            region=region,
        )
        call = self._call(SIMILAR_VIDEOS, ask.message, timeout, request_id, metadata)
        answer: Answer = self._send(call)
        return answer
