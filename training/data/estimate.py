"""Estimate of an import's size and memory from the file sizes, before reading them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset

from vireo.training.data.files import is_parquet
from vireo.training.data.importing import ImportRequest
from vireo.training.memory import MemoryEstimate, import_memory

_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class ImportEstimate:
    """Approximate size of an import."""

    interactions: int
    videos: int
    viewers: int
    """Rows of the viewers file."""
    attributes: int = 0
    """Number of declared attributes of a video."""

    @property
    def memory(self) -> MemoryEstimate:
        """Peak memory of the import."""
        entities = self.videos + self.viewers
        return import_memory(self.interactions, entities, self.attributes * self.videos)

    def __str__(self) -> str:
        known = f"{self.viewers:,} viewers, " if self.viewers else ""
        return (
            f"about {self.interactions:,} interactions, {known}{self.videos:,} videos: "
            f"{self.memory}"
        )


def estimate_import(request: ImportRequest) -> ImportEstimate:
    """Estimate what importing the files needs; an unreadable file counts as empty."""
    return ImportEstimate(
        interactions=_rows(request.interactions),
        videos=_rows(request.videos),
        viewers=_rows(request.viewers) if request.viewers else 0,
        attributes=len(request.attributes),
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
