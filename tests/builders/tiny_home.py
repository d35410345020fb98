"""A home with everything that a stack needs, made in a second: data, features, a release."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from tests.builders.releases import build_release, video_ids
from vireo.server.home import Home
from vireo.training.data.schema import INTERACTIONS, VIDEOS, VIEWERS
from vireo.training.data.writing import Tables, write_dataset
from vireo.training.features.build import build_features

DATASET = "tiny"
VIEWER = "a/b é?"
"""An id with everything that a path must escape; watched video-0, video-1 and video-2."""
WATCHED = ["video-0", "video-1", "video-2"]


def build_watches(
    home: Home,
    watches: Sequence[tuple[str, str, datetime]],
    attributes: Sequence[str],
    ratings: Sequence[float],
) -> Path:
    """Imports a data set of who watched what when, and builds its features, nothing held out."""
    viewers, count = list(dict.fromkeys(viewer for viewer, _, _ in watches)), len(watches)
    tables = Tables(
        interactions=pa.table(
            {
                "viewer_id": [viewer for viewer, _, _ in watches],
                "video_id": [video for _, video, _ in watches],
                "timestamp": [at for _, _, at in watches],
                "row": list(range(1, count + 1)),
                "event": ["play"] * count,
                "watched_fraction": [None] * count,
                "rating": ratings,
                "held_out": [False] * count,
            },
            INTERACTIONS,
        ).sort_by("timestamp"),
        videos=pa.table(
            {
                "video_id": video_ids(40),
                "title": [f"Title of {name}" for name in video_ids(40)],
                "tags": [[] for _ in range(40)],
                "published": [None] * 40,
                "duration": [None] * 40,
                "creator": [None] * 40,
            },
            VIDEOS,
        ),
        viewers=pa.table(
            {"viewer_id": viewers, "attributes": [attributes] * len(viewers)}, VIEWERS
        ),
    )
    write_dataset(home, DATASET, tables, "made up", "", {})
    build_features(home, DATASET, holdout="none")
    return home.features(DATASET)


def build_tiny_features(home: Home) -> Path:
    """Those of one viewer."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    watches = [(VIEWER, video, start + timedelta(hours=n)) for n, video in enumerate(WATCHED)]
    return build_watches(home, watches, ["occupation=artist"], [5.0, 1.0, 5.0])


def build_tiny_home(root: Path) -> Home:
    """The home, with a release staged for `vireo release publish`."""
    home = Home(root)
    build_tiny_features(home)
    build_release(home.staged_release(DATASET), release_id="tiny-1")
    return home
