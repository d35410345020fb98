"""The request of one call."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import grpc

from vireo_client._generated.enums import SURFACE_NUMBERS, Surface
from vireo_client.errors import REQUEST_ID, InvalidRequest
from vireo_client.messages import RecommendRequest

Metadata = Sequence[tuple[str, str | bytes]]

_NUMBERS = {surface: number for number, surface in SURFACE_NUMBERS.items()}


@dataclass(frozen=True)
class Ask:
    """The arguments of `recommend`."""

    viewer_id: str
    page_size: int | None
    surface: Surface
    seed_video_id: str
    excluded_video_ids: Iterable[str]
    device: str
    locale: str
    time: datetime | None
    explain: bool
    timeout: float
    request_id: str
    metadata: Metadata

    def message(self) -> RecommendRequest:
        """Return the request message. The server validates bounds; this only builds the message.

        Raises:
            InvalidRequest: a value that no message can hold.
            ValueError: the time has no zone.
        """
        if self.time is not None and self.time.tzinfo is None:
            raise ValueError("time has no time zone")
        try:
            request = RecommendRequest(
                viewer_id=self.viewer_id,
                page_size=self.page_size,
                surface=_NUMBERS[Surface(self.surface)],  # type: ignore[arg-type]
                seed_video_id=self.seed_video_id,
                excluded_video_ids=self.excluded_video_ids,
                explain=self.explain,
            )
            if self.device or self.locale:
                request.context.device, request.context.locale = self.device, self.locale
            if self.time is not None:
                request.context.time.FromDatetime(self.time)
        except ValueError as error:
            code = grpc.StatusCode.INVALID_ARGUMENT
            raise InvalidRequest(code, str(error), self.request_id) from error
        return request

    def sent_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the metadata: the request id, and the caller's."""
        return ((REQUEST_ID, self.request_id), *self.metadata)


def identity(request_id: str) -> str:
    """Return the caller's request id, or a new one if it is empty.

    Raises:
        ValueError: it is not printable ASCII, which a header requires.
    """
    if not (request_id.isascii() and request_id.isprintable()):
        raise ValueError(f"a request id is printable ASCII, not {request_id!r}")
    return request_id or uuid.uuid4().hex
