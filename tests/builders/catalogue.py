"""Changes of the catalogue, as they are in the log."""

from __future__ import annotations

from typing import Any

from vireo.v1.catalog_pb2 import Video
from vireo.v1.log_pb2 import CatalogChange

from server.event_log.log import Entry
from server.features.keys import video_key


def key_of(video_id: str) -> str:
    """Key of a video's changes in the log."""
    return f"{video_key(video_id) & (1 << 64) - 1:016x}"


def change(video_id: str, *, is_removed: bool = False, **fields: Any) -> bytes:
    """A serialized change; `fields` are those of `Video`."""
    video = Video(video_id=video_id, **fields)
    return CatalogChange(video=video, removed=is_removed).SerializeToString()


def upserted(position: int, video_id: str, **fields: Any) -> Entry:
    """An entry of the log by which a video came or changed."""
    return Entry(position, key_of(video_id), change(video_id, **fields))


def removed(position: int, video_id: str) -> Entry:
    """An entry of the log by which a video went."""
    return Entry(position, key_of(video_id), change(video_id, is_removed=True))
