"""The Feast repository: entities, feature views and feature services.

Values come from `activity.py` and `statistics.py` in this folder, which share their
definitions with the online path (`server/features/`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Int64, String

_FOREVER = timedelta(0)  # In Feast, a TTL of 0 means that values never expire.

viewer = Entity(
    name="viewer",
    join_keys=["viewer_id"],
    value_type=ValueType.STRING,
    description="Someone who watches videos",
)
video = Entity(
    name="video",
    join_keys=["video_id"],
    value_type=ValueType.STRING,
    description="A video of the catalogue",
)


def _source(view: str) -> FileSource:
    """Return the view's Parquet file, in the repository's folder."""
    return FileSource(
        name=f"{view}_source", path=f"{view}.parquet", timestamp_field="event_timestamp"
    )


viewer_profile = FeatureView(
    name="viewer_profile",
    entities=[viewer],
    ttl=_FOREVER,
    schema=[
        Field(name="viewer_id", dtype=String),
        Field(name="attributes", dtype=Array(String), description='"name=value" each'),
    ],
    source=_source("viewer_profile"),
    description="Attributes of a viewer",
)
viewer_activity = FeatureView(
    name="viewer_activity",
    entities=[viewer],
    ttl=_FOREVER,
    schema=[
        Field(name="viewer_id", dtype=String),
        Field(
            name="history_ids",
            dtype=Array(String),
            description="Videos watched last, oldest first",
        ),
        Field(
            name="history_times",
            dtype=Array(Int64),
            description="When each was watched, Unix seconds",
        ),
        Field(
            name="watched_keys",
            dtype=Array(Int64),
            description="Keys of the videos watched, oldest first",
        ),
        Field(name="viewer_watch_count", dtype=Int64, description="Videos watched"),
        Field(name="viewer_like_count", dtype=Int64, description="Watched videos that were liked"),
    ],
    source=_source("viewer_activity"),
    description="What a viewer watched, as server.features.activity.Activity",
)
video_statistics = FeatureView(
    name="video_statistics",
    entities=[video],
    ttl=_FOREVER,
    online=False,
    schema=[
        Field(name="video_id", dtype=String),
        Field(name="video_watch_count", dtype=Int64, description="Viewers who watched it"),
        Field(
            name="video_recent_watch_count",
            dtype=Float32,
            description="Watches, each halved every 30 days",
        ),
        Field(
            name="video_like_rate",
            dtype=Float32,
            description="Share of watches that were liked, shrunk towards the prior",
        ),
        Field(
            name="video_age_days",
            dtype=Float32,
            description="Days since publication or first watch",
        ),
    ],
    source=_source("video_statistics"),
    description="Watch and like statistics of a video",
)
viewer_serving = FeatureService(
    name="viewer_serving",
    features=[viewer_profile, viewer_activity],
    description="A viewer's row, as a request reads it",
)
video_statistics_service = FeatureService(
    name="video_statistics",
    features=[video_statistics],
    description="A video's statistics, offline only",
)

DEFINITIONS: Any = [
    viewer,
    video,
    viewer_profile,
    viewer_activity,
    video_statistics,
    viewer_serving,
    video_statistics_service,
]
"""All objects to apply; FeatureStore.apply declares no type for them."""
ONLINE_VIEWS = ("viewer_profile", "viewer_activity")
"""Feature views that requests read; the videos' statistics are in the release."""
