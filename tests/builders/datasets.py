"""Writes a small data set with every oddity that splitting and features must get right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from vireo.server.arrays import Float64Array
from vireo.server.home import Home
from vireo.training.data.dataset import write_dataset
from vireo.training.data.schema import INTERACTIONS, VIDEOS, VIEWERS

VIEWER_COUNT, VIDEO_COUNT = 40, 60
START = pd.Timestamp("2024-01-01", tz="UTC")


def random_interactions() -> pd.DataFrame:
    """Plays with ties, watched again, late likes, and events that are no watches."""
    random = np.random.default_rng(7)
    rows = []
    for viewer in range(VIEWER_COUNT):
        for _ in range(random.integers(1, 40)):
            video, second = random.integers(VIDEO_COUNT - 5), int(random.integers(0, 90)) * 86_400
            event = random.choice(["play", "like", "hide", "impression"], p=[0.7, 0.1, 0.1, 0.1])
            rows.append((f"w{viewer}", f"v{video}", second, event))
            if random.random() < 0.2:
                rows.append(
                    (f"w{viewer}", f"v{video}", second + int(random.integers(9_000_000)), "like")
                )
    return _interactions(rows, random.random(len(rows)))


def ring_interactions() -> pd.DataFrame:
    """Plays on around a ring of the videos, so that what comes next can be learned."""
    random = np.random.default_rng(3)
    rows = [
        (f"w{viewer}", f"v{(start + step) % VIDEO_COUNT}", viewer * 1_000 + step * 60, "play")
        for viewer in range(VIEWER_COUNT)
        for start in [int(random.integers(VIDEO_COUNT))]
        for step in range(int(random.integers(8, 20)))
    ]
    return _interactions(rows, np.ones(len(rows)))


def _interactions(rows: list[tuple[str, str, int, str]], fractions: Float64Array) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["viewer_id", "video_id", "second", "event"])
    frame["timestamp"] = START + pd.to_timedelta(frame.pop("second"), unit="s")
    frame["row"] = range(1, len(frame) + 1)
    frame["watched_fraction"] = fractions.astype("float32")
    frame["rating"] = np.float32("nan")
    frame["held_out"] = False
    return frame.sort_values(["timestamp", "row"], ignore_index=True)


def write_small_dataset(home: Home, name: str, interactions: pd.DataFrame, terms: str = "") -> None:
    """Write a data set; even videos have a publication date, some of them in the future."""
    published = [START + pd.Timedelta(days=6 * n - 99) for n in range(VIDEO_COUNT)]
    videos = {
        "video_id": [f"v{n}" for n in range(VIDEO_COUNT)],
        "title": [f"Video {n}" for n in range(VIDEO_COUNT)],
        "tags": [["even" if n % 2 == 0 else "odd"] for n in range(VIDEO_COUNT)],
        "published": [None if n % 2 else moment for n, moment in enumerate(published)],
        "duration": [60.0] * VIDEO_COUNT,
        "creator": [None] * VIDEO_COUNT,
    }
    viewers = {
        "viewer_id": [f"w{n}" for n in range(VIEWER_COUNT + 1)],
        "attributes": [["plan=free", f"group={n % 3}"] if n else [] for n in range(41)],
    }
    write_dataset(
        home,
        name,
        "a test",
        videos=[pa.table(videos, VIDEOS)],
        viewers=pa.table(viewers, VIEWERS),
        interactions=[pa.Table.from_pandas(interactions, INTERACTIONS, preserve_index=False)],
        terms=terms,
    )
