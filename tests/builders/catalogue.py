"""Changes of the catalogue, as they are in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import Entry, Position
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.keys import VideoRows, video_key
from vireo.server.live.live import Live
from vireo.server.live.settings import LiveSettings
from vireo.server.recommend.catalogue.live_videos import LiveVideos
from vireo.server.recommend.catalogue.overlay import Overlay
from vireo.server.recommend.catalogue.placement import KnownVideos, Placement
from vireo.server.recommend.catalogue.trends import normal_locale
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.v1.catalog_pb2 import Video
from vireo.v1.log_pb2 import CatalogChange, Trending, TrendingVideos


def key_of(video_id: str) -> str:
    """Key of a video's changes in the log."""
    return f"{video_key(video_id) & (1 << 64) - 1:016x}"


def change(video_id: str, *, is_removed: bool = False, at: int = 0, **fields: Any) -> bytes:
    """A serialized change, received at a time in Unix seconds; `fields` are those of `Video`."""
    made = CatalogChange(video=Video(video_id=video_id, **fields), removed=is_removed)
    made.received_at.seconds = at
    return made.SerializeToString()


def upserted(position: int, video_id: str, **fields: Any) -> Entry:
    """An entry of the log by which a video came or changed."""
    return Entry(position, key_of(video_id), change(video_id, **fields))


def removed(position: int, video_id: str, at: int = 0) -> Entry:
    """An entry of the log by which a video went."""
    return Entry(position, key_of(video_id), change(video_id, is_removed=True, at=at))


def restored(position: int, video_id: str, at: int = 0) -> Entry:
    """An entry of REMOVED by which a video may be shown again."""
    return Entry(position, key_of(video_id), change(video_id, at=at))


def take(overlay: Overlay, *entries: Entry) -> None:
    """Take in entries that are `upserted` or `removed`, each as one of its stream."""
    for entry in entries:
        if CatalogChange.FromString(entry.data).removed:
            overlay.take_takedowns([entry])
        else:
            overlay.take([entry])


def told(lists: Mapping[str, Sequence[str]], impressions: Mapping[str, int] | None = None) -> bytes:
    """What a consumer tells of trending videos by locale, the heaviest first, and of new ones."""
    shown = impressions or {}
    message = Trending(
        lists=[
            TrendingVideos(
                locale=normal_locale(locale),
                keys=[video_key(each) for each in ids],
                weights=[10.0 * (len(ids) - place) for place in range(len(ids))],
            )
            for locale, ids in lists.items()
        ],
        new_keys=[video_key(each) for each in shown],
        new_impressions=list(shown.values()),
        at=Timestamp(seconds=1),
    )
    return message.SerializeToString()


class _Still(Live):
    """What was read of a log, of which nothing more comes; it needs no event loop."""

    def live_videos(self, known: KnownVideos, folder: Path) -> LiveVideos:
        self.wait(folder)
        ranked = known.features is not None
        merged = self.merged(known.position)
        made = LiveVideos(self.overlay, self.trends, known, merged=merged, ranked=ranked)
        for _ in made.catch_up():
            pass
        while made.place_some():
            pass
        return made

    def merged(self, release: Position) -> int:
        return release.sequence


def followed(
    *entries: Entry,
    trending: Mapping[str, Sequence[str]] | None = None,
    impressions: Mapping[str, int] | None = None,
) -> Live:
    """What a pod knows that has read these entries; nothing more comes."""
    live = _Still(JetStreamLog(EventLogSettings()), LiveSettings())
    take(live.overlay, *entries)
    live.trends.update("trending.0", told(trending or {}, impressions))
    live.takedowns_read.set()
    live.caught_up.set()
    return live


def known_videos(folder: Path, position: int = 0, **more: Any) -> KnownVideos:
    """What live videos need of a release that was trained with changes up to a position."""
    keys = np.load(folder / layout.VIDEO_KEYS)
    vectors = np.load(folder / layout.VIDEO_VECTORS)
    placement = Placement.load(folder, Manifest.read(folder), len(keys))
    return KnownVideos(VideoRows(keys), vectors, Position(position), placement, **more)
