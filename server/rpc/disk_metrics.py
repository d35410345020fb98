"""Space of the disks that a process writes; a module of its own, as imported metrics are shown."""

from __future__ import annotations

import math
import shutil
from functools import partial
from pathlib import Path
from typing import Literal

from prometheus_client import Gauge

FREE = Gauge(
    "vireo_disk_free_bytes",
    "Free space of the disk that holds a folder that the process writes.",
    ["folder"],
)
SIZE = Gauge("vireo_disk_size_bytes", "Size of that disk.", ["folder"])


def export_disk(folder: str, path: Path) -> None:
    """Export the space of the disk of a folder, called `folder` in labels, with every scrape."""
    FREE.labels(folder).set_function(partial(_bytes, path, "free"))
    SIZE.labels(folder).set_function(partial(_bytes, path, "total"))


def _bytes(path: Path, which: Literal["free", "total"]) -> float:
    """Return the bytes that this user may still write, or all of the disk; NaN if it can't tell."""
    try:
        usage = shutil.disk_usage(_existing(path))
    except OSError:
        return math.nan
    return usage.free if which == "free" else usage.total


def _existing(path: Path) -> Path:
    """Return the folder, or the nearest one above it that is there yet."""
    return next(each for each in (path, *path.parents) if each.exists())
