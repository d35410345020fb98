"""The method of both clients that explains a video's place."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Generic, TypeVar

from vireo_client._generated.enums import Surface
from vireo_client.connection import Connection
from vireo_client.filter import Filter
from vireo_client.methods import EXPLAIN_VIDEO
from vireo_client.profile import RequestProfile
from vireo_client.request import Ask, ExplainAsk, Metadata
from vireo_client.session import SessionVideo

Explained = TypeVar("Explained")
"""A `VideoExplanation`, or an awaitable of one."""


class Explaining(Connection, Generic[Explained]):
    """Calls for explanations."""

    def explain_video(
        self,
        video_id: str,
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
        timeout: float | None = None,
        request_id: str = "",
        metadata: Metadata = (),
    ) -> Explained:
        """Return at which stage of a viewer's slate a video was lost, and why, or its place.

        It costs two to three times as much as `recommend`, whose other arguments and exceptions it
        has. An unknown video is no error: `reason` says so.

        Args:
            video_id: your own id of the video.
            viewer_id: as for `recommend`.
            page_size: as for `recommend`.
            surface: as for `recommend`.
            seed_video_id: as for `recommend`.
            excluded_video_ids: as for `recommend`.
            device: as for `recommend`.
            locale: as for `recommend`.
            time: as for `recommend`.
            time_zone: as for `recommend`.
            region: as for `recommend`.
            profile: as for `recommend`.
            filter: as for `recommend`.
            session: as for `recommend`.
            timeout: as for `recommend`.
            request_id: as for `recommend`.
            metadata: as for `recommend`.

        Raises:
            VireoError: as for `recommend`.
            ValueError: as for `recommend`.
        """
        slate = Ask(
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
            page_token="",
            explain=False,
        )
        ask = ExplainAsk(video_id=video_id, slate=slate)
        call = self._call(EXPLAIN_VIDEO, ask.message, timeout, request_id, metadata)
        answer: Explained = self._send(call)
        return answer
