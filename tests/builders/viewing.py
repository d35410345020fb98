"""A small data set of somebody's own: other ids than MovieLens', no tags, no attributes."""

from __future__ import annotations

import csv
import random
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

VIEWERS = 30
VIDEOS = 100
FUTURE_ROW = 1 + VIEWERS * 21 + 1
"""Number of the row that nobody can have watched yet; the header is row 1."""


def write_viewing_csv(folder: Path, seed: int = 7) -> None:
    """Write `watched.csv` and `videos.csv`: two tastes, each a half of the videos.

    Viewer ids are "0", "1", …; video ids "000", "001", …, "0099", so that an id read as a
    number would come back changed. Times come with and without zones, some rows twice, and the
    last row is of the year 2100.
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
                time = datetime.fromtimestamp(1_700_000_000 + viewer * 100_000 + step * 600, UTC)
                row = [viewer, f"00{video}", _written(time, step), round(draw.random(), 2)]
                rows.writerow(row)
                if step == 0:
                    rows.writerow(row)
        rows.writerow([0, "000", "2100-01-01T00:00:00Z", 1.0])


def watched_by(viewer: str, folder: Path) -> set[str]:
    """Return the videos that a viewer has watched by `watched.csv`, those to come left out."""
    with (folder / "watched.csv").open(newline="") as file:
        return {
            row["video_id"]
            for row in csv.DictReader(file)
            if row["viewer_id"] == viewer and not row["timestamp"].startswith("2100")
        }


def _written(time: datetime, step: int) -> str:
    """Return a time in one of three forms, which all mean the same moment."""
    if step % 3 == 0:
        return time.astimezone(timezone(timedelta(hours=2))).isoformat()
    return f"{time:%Y-%m-%dT%H:%M:%S}" + ("Z" if step % 3 == 1 else "")
