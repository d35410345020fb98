"""Table schemas of an imported data set, the same for MovieLens and a user's own data."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")

INTERACTIONS = pa.schema(
    [
        pa.field("viewer_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("row", pa.int64(), nullable=False),  # data row of the user's file, from 1
        pa.field("event", pa.string(), nullable=False),
        pa.field("watched_fraction", pa.float32()),
        pa.field("rating", pa.float32()),  # on the scale from 1 to MAX_RATING
        pa.field("held_out", pa.bool_(), nullable=False),  # the test part of a packaged split
    ]
)
"""Sorted by (timestamp, row)."""

VIDEOS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("published", TIME),
        pa.field("duration", pa.float32()),  # seconds
        pa.field("creator", pa.string()),  # who made it
    ]
)
"""In the order of the user's file. A table may also have declared attributes."""

AttributeKind = Literal["labels", "number"]
ATTRIBUTE_PREFIX = "attribute."
"""Begins the name of a column that holds a declared attribute."""
ATTRIBUTE_TYPES: dict[AttributeKind, pa.DataType] = {
    "labels": pa.list_(pa.string()),
    "number": pa.float64(),
}
"""Column types of declared attributes; null is unknown, and so is an empty list."""
MAX_VALUES = 64
"""Maximum labels that a video may have of one attribute."""

VIEWERS = pa.schema(
    [
        pa.field("viewer_id", pa.string(), nullable=False),
        pa.field("attributes", pa.list_(pa.string()), nullable=False),  # "name=value"
    ]
)
"""The viewers file's viewers, then those that only interactions name."""

MAX_RATING = 5.0
"""Best rating; an import converts those of other scales."""
EVENTS = ("play", "like", "hide", "impression", "bounce")
"""Kinds of interactions; a bounce is a play that ended so early that it is no watch."""
WATCH_EVENTS = ("play", "like")
"""The kinds that count as a watch."""
HIDE_EVENTS = ("hide",)
"""The kinds by which a viewer hides a video."""
