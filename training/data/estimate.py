"""Estimate of an import's size and memory from the file sizes, before reading them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.dataset

from training.data.files import is_parquet
from training.data.importing import ImportRequest

_SAMPLE_BYTES = 1 << 20
# As `vireo bench memory` measures it.
_BASE_BYTES = 500_000_000
_INTERACTION_BYTES = 100
_ENTITY_BYTES = 500

_GB = 1e9


@dataclass(frozen=True)
class ImportEstimate:
    """Approximate size of an import."""

    interactions: int
    videos: int
    viewers: int
    """Rows of the viewers file."""
    free: int
    """Available memory of this machine, bytes."""

    @property
    def memory(self) -> int:
        """Peak memory of the import, bytes; an upper bound for up to a million of each id."""
        entities = self.videos + self.viewers
        return _BASE_BYTES + _INTERACTION_BYTES * self.interactions + _ENTITY_BYTES * entities

    def __str__(self) -> str:
        known = f"{self.viewers:,} viewers, " if self.viewers else ""
        line = (
            f"about {self.interactions:,} interactions, {known}{self.videos:,} videos: "
            f"takes about {self.memory / _GB:.1f} GB of memory, {self.free / _GB:.1f} GB are free"
        )
        return line if self.memory <= self.free else f"{line}: close other programs first"


def estimate_import(request: ImportRequest) -> ImportEstimate:
    """Estimate what importing the files needs; an unreadable file counts as empty."""
    return ImportEstimate(
        interactions=_rows(request.interactions),
        videos=_rows(request.videos),
        viewers=_rows(request.viewers) if request.viewers else 0,
        free=psutil.virtual_memory().available,
    )


def _rows(path: Path) -> int:
    """Estimate a file's row count from its metadata or the length of its first lines."""
    try:
        if is_parquet(path):
            return int(pyarrow.dataset.dataset(path, format="parquet").count_rows())
        with path.open("rb") as file:
            sample = file.read(_SAMPLE_BYTES)
        lines = sample.count(b"\n") * path.stat().st_size / max(1, len(sample))
        return max(0, round(lines) - 1)  # the header is no row
    except (OSError, pa.ArrowInvalid):
        return 0
