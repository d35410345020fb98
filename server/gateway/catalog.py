"""CatalogService: records changes of the catalogue in the log, by video."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import Counter

from vireo.server.event_log.log import CATALOG, REMOVED, Stream
from vireo.server.features.keys import video_key
from vireo.server.gateway.appender import Appended, Appender
from vireo.server.recommend.catalogue.overlay import Takedowns
from vireo.server.recommend.filters.declared import (
    ATTRIBUTE_NAME,
    BUILT_IN_LABELS,
    BUILT_IN_NUMBERS,
)
from vireo.server.recommend.filters.expression import MAX_TIME, MIN_TIME
from vireo.v1 import catalog_pb2 as pb
from vireo.v1.catalog_pb2_grpc import CatalogServiceServicer
from vireo.v1.log_pb2 import CatalogChange

NAME = pb.DESCRIPTOR.services_by_name["CatalogService"].full_name

CHANGES = Counter(
    "vireo_catalog_changes", "Changes of videos that were put into the log, by kind.", ["kind"]
)
UPSERTED, _REMOVALS = CHANGES.labels("upsert"), CHANGES.labels("remove")
_VIDEO_SECONDS = 2.5e-4
"""Cost of a change: each is a message of the log, and all pods place the video."""
_UNSIGNED = (1 << 64) - 1


class CatalogServicer(CatalogServiceServicer):
    """Records changes of the catalogue."""

    def __init__(self, appender: Appender, takedowns: Takedowns | None = None) -> None:
        """Record by `appender`; `takedowns` are those that are followed."""
        self._appender, self._takedowns = appender, takedowns or Takedowns()

    async def UpsertVideos(  # noqa: N802
        self, request: pb.UpsertVideosRequest, _: Any
    ) -> pb.UpsertVideosResponse:
        """Add or replace videos."""
        videos, at = request.videos, self._time_of(request.videos)
        if request.restore:
            bare = [pb.Video(video_id=video.video_id) for video in videos]
            await self._appender.append(_messages(REMOVED, bare, at, removed=False))
        await self._appender.append(_messages(CATALOG, videos, at, removed=False))
        UPSERTED.inc(len(videos))
        keys = [] if request.restore else [video_key(video.video_id) for video in videos]
        down = self._takedowns.among(keys)
        return pb.UpsertVideosResponse(upserted=len(videos), still_removed=len(down))

    async def RemoveVideos(  # noqa: N802
        self, request: pb.RemoveVideosRequest, _: Any
    ) -> pb.RemoveVideosResponse:
        """Remove videos."""
        videos = [pb.Video(video_id=video_id) for video_id in request.video_ids]
        at = self._time_of(videos)
        await self._appender.append(_messages(REMOVED, videos, at, removed=True))
        await self._appender.append(_messages(CATALOG, videos, at, removed=True))
        _REMOVALS.inc(len(videos))
        return pb.RemoveVideosResponse(removed=len(videos))

    def _time_of(self, videos: Sequence[pb.Video]) -> Timestamp:
        """Return now, but not before these videos' states, if this machine's clock is behind."""
        latest = self._takedowns.latest(video_key(video.video_id) for video in videos)
        at = Timestamp()
        at.FromNanoseconds(max(time.time_ns(), latest * 1_000_000_000))
        return at


def _messages(
    stream: Stream, videos: Sequence[pb.Video], received_at: Timestamp, *, removed: bool
) -> Iterator[Appended]:
    for video in videos:
        change = CatalogChange(video=video, removed=removed, received_at=received_at)
        yield Appended(stream, catalog_key(video.video_id), change.SerializeToString())


def catalog_key(video_id: str) -> str:
    """Return the key of a video's changes in the log."""
    return f"{video_key(video_id) & _UNSIGNED:016x}"


def cost(request: Message) -> float:
    """Return what a request costs, in seconds."""
    if isinstance(request, pb.RemoveVideosRequest):
        return max(1, len(request.video_ids)) * _VIDEO_SECONDS
    assert isinstance(request, pb.UpsertVideosRequest)
    return max(1, len(request.videos)) * _VIDEO_SECONDS


def violations(request: Message) -> list[tuple[str, str]]:
    """Return what the protos' rules can't say of a request: the field, what is wrong with it."""
    if isinstance(request, pb.RemoveVideosRequest):
        return _repeated("video_ids", "", request.video_ids)
    assert isinstance(request, pb.UpsertVideosRequest)
    ids = [video.video_id for video in request.videos]
    found = _repeated("videos", ".video_id", ids)
    for index, video in enumerate(request.videos):
        at = video.published
        if not (MIN_TIME <= at.seconds <= MAX_TIME and 0 <= at.nanos < 1_000_000_000):
            text = "must be from the year 1 to 9999, with nanos below 10^9"
            found.append((f"videos[{index}].published", text))
        if video.attributes:
            found += _unfit_attributes(f"videos[{index}].attributes", video.attributes)
    return found


def _unfit_attributes(
    field: str, attributes: Sequence[pb.VideoAttribute]
) -> Iterator[tuple[str, str]]:
    """Yield each attribute of a video that can't be one, and each that was there before."""
    names = [each.name for each in attributes]
    yield from _repeated(field, ".name", names)
    for index, each in enumerate(attributes):
        place = f"{field}[{index}]"
        if each.name in (*BUILT_IN_LABELS, *BUILT_IN_NUMBERS):
            yield f"{place}.name", f"{each.name} is a field of the video: set it there"
        elif 0 < len(each.name) <= 64 and not re.fullmatch(ATTRIBUTE_NAME, each.name):
            yield f"{place}.name", "must have lower-case letters, digits and _, a letter first"
        if each.labels and each.HasField("number"):
            yield place, "must have labels or a number, not both"
        elif not (each.labels or each.HasField("number")):
            yield place, "must have labels or a number: leave out what isn't known"


def _repeated(field: str, path: str, ids: Sequence[str]) -> list[tuple[str, str]]:
    """Return each id that was there before."""
    first: dict[str, int] = {}
    return [
        (f"{field}[{index}]{path}", f"is that of {field}[{before}]")
        for index, each in enumerate(ids)
        if (before := first.setdefault(each, index)) != index
    ]
