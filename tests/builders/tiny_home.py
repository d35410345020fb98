"""A home with everything that a stack needs, made in a second: data, features, a release."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from tests.builders.releases import build_release, video_ids
from vireo.server.home import Home
from vireo.training.data.dataset import write_dataset
from vireo.training.data.schema import INTERACTIONS, VIDEOS, VIEWERS
from vireo.training.features.build import build_features

DATASET = "tiny"
VIEWER = "a/b é?"
"""An id with everything that a path must escape; watched video-0, video-1 and video-2."""
WATCHED = ["video-0", "video-1", "video-2"]


def build_tiny_features(home: Home) -> Path:
    """Imports a data set of one viewer and builds its features, no watch held out for tests."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    count = len(WATCHED)
    write_dataset(
        home,
        DATASET,
        "made up",
        interactions=[
            pa.table(
                {
                    "viewer_id": [VIEWER] * count,
                    "video_id": WATCHED,
                    "timestamp": [start + timedelta(hours=hour) for hour in range(count)],
                    "row": list(range(1, count + 1)),
                    "event": ["play"] * count,
                    "watched_fraction": [None] * count,
                    "rating": [5.0, 1.0, 5.0],
                    "held_out": [False] * count,
                },
                INTERACTIONS,
            )
        ],
        videos=[
            pa.table(
                {
                    "video_id": video_ids(40),
                    "title": [f"Title of {name}" for name in video_ids(40)],
                    "tags": [[] for _ in range(40)],
                },
                pa.schema([VIDEOS.field(name) for name in ("video_id", "title", "tags")]),
            )
        ],
        viewers=pa.table({"viewer_id": [VIEWER], "attributes": [["occupation=artist"]]}, VIEWERS),
    )
    build_features(home, DATASET, holdout="none")
    return home.features(DATASET)


def build_tiny_home(root: Path) -> Home:
    """The home, with a release staged for `vireo release publish`."""
    home = Home(root)
    build_tiny_features(home)
    build_release(home.staged_release(DATASET), release_id="tiny-1")
    return home
