"""Imports of small files, CSV or Parquet, as data set "mine"."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vireo.server.home import Home
from vireo.training.data.dataset import DatasetInfo
from vireo.training.data.importing import ImportRequest, import_dataset

VIDEOS = "video_id,title\n007,Seven\n0,Zero\nü,Umlaut\n"
HEADER = "viewer_id,video_id,timestamp\n"
ROWS = "a,007,100\na,0,200\na,ü,300\n"
FULL_HEADER = "viewer_id,video_id,timestamp,event,watched_fraction,rating\n"


def imported(
    home: Home,
    interactions: str | bytes | dict[str, Any] = HEADER + ROWS,
    videos: str | dict[str, Any] = VIDEOS,
    viewers: str | dict[str, Any] | None = None,
    **options: Any,
) -> DatasetInfo:
    """Import CSV texts, or columns of Parquet files."""
    paths: dict[str, Any] = {}
    for stem, given in (("interactions", interactions), ("videos", videos), ("viewers", viewers)):
        if isinstance(given, dict):
            paths[stem] = home.root.parent / f"{stem}.parquet"
            pq.write_table(pa.table(given), paths[stem])
        elif given is not None:
            paths[stem] = home.root.parent / f"{stem}.csv"
            paths[stem].write_bytes(given.encode() if isinstance(given, str) else given)
    return import_dataset(home, ImportRequest(name="mine", **paths, **options))
