"""The method of both clients that explains a video's place."""

from __future__ import annotations

from typing import Generic, TypeVar, Unpack

from vireo_client.connection import Connection
from vireo_client.methods import EXPLAIN_VIDEO
from vireo_client.request import Ask, AskArguments, ExplainAsk, Metadata

Explained = TypeVar("Explained")
"""A `VideoExplanation`, or an awaitable of one."""


class Explaining(Connection, Generic[Explained]):
    """Calls for explanations."""

    def explain_video(
        self,
        video_id: str,
        viewer_id: str,
        *,
        timeout: float | None = None,
        request_id: str = "",
        metadata: Metadata = (),
        **slate: Unpack[AskArguments],
    ) -> Explained:
        """Return at which stage of a viewer's slate a video was lost, and why, or its place.

        It costs two to three times as much as `recommend`, whose arguments it has, but for
        page_token and explain, and whose exceptions. An unknown video is no error: `reason` says
        so.

        Args:
            video_id: your own id of the video.
            viewer_id: as for `recommend`.
            timeout: as for `recommend`.
            request_id: as for `recommend`.
            metadata: as for `recommend`.
            **slate: as for `recommend`.

        Raises:
            VireoError: as for `recommend`.
            ValueError: as for `recommend`.
        """
        asked = Ask(viewer_id=viewer_id, page_token="", explain=False, **slate)
        ask = ExplainAsk(video_id=video_id, slate=asked)
        call = self._call(EXPLAIN_VIDEO, ask.message, timeout, request_id, metadata)
        answer: Explained = self._send(call)
        return answer
