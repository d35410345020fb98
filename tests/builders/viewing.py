"""A small data set of somebody's own: other ids than MovieLens', no tags, no attributes."""

from __future__ import annotations

import csv
import random
from pathlib import Path

VIEWERS = 60
VIDEOS = 100


def write_viewing_csv(folder: Path, seed: int = 7) -> None:
    """Writes `watched.csv` and `videos.csv`: two tastes, each a half of the videos.

    Viewer ids are "0", "1", …; video ids "000", "001", …, "0099", so that an id read as a
    number would come back changed.
    """
    draw = random.Random(seed)
    with (folder / "videos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video_id", "title"])
        rows.writerows((f"00{video}", f"Video {video}") for video in range(VIDEOS))
    with (folder / "watched.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["viewer_id", "video_id", "timestamp", "watched_fraction"])
        for viewer in range(VIEWERS):
            taste = [video for video in range(VIDEOS) if video % 2 == viewer % 2]
            for step, video in enumerate(draw.sample(taste, 20)):
                time = 1_700_000_000 + viewer * 100_000 + step * 600
                rows.writerow([viewer, f"00{video}", time, round(draw.random(), 2)])
