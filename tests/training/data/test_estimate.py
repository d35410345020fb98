from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vireo.training.data.estimate import ImportEstimate, estimate_import
from vireo.training.data.importing import ImportRequest


def test_rows_are_counted_before_they_are_read(tmp_path: Path) -> None:
    lines = "".join(f"viewer-{n:07},video-{n:07},{1_700_000_000 + n}\n" for n in range(100_000))
    (tmp_path / "i.csv").write_text(f"viewer_id,video_id,timestamp\n{lines}")
    pq.write_table(pa.table({"video_id": range(70)}), tmp_path / "v.parquet")
    request = ImportRequest("mine", tmp_path / "i.csv", tmp_path / "v.parquet", tmp_path / "no.csv")
    estimate = estimate_import(request)
    assert abs(estimate.interactions - 100_000) < 1_000
    assert (estimate.videos, estimate.viewers) == (70, 0)


def test_the_import_announces_its_size_and_memory() -> None:
    said = str(ImportEstimate(10_000_000, 1_000_000, 1_000_000))
    assert said.startswith(
        "about 10,000,000 interactions, 1,000,000 viewers, 1,000,000 videos: takes about 2.5 GB of "
    )
    assert "viewers" not in str(ImportEstimate(10_000_000, 1_000_000, 0))


def test_declared_attributes_add_to_the_memory() -> None:
    without = ImportEstimate(10_000_000, 1_000_000, 0).memory.needed
    assert ImportEstimate(10_000_000, 1_000_000, 0, attributes=3).memory.needed == without + 3e8
