"""The peak memory of `vireo data import`, and whether what it said before was enough."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from rich.console import Console

from bench.memory.peak import peak_memory, peak_rows
from bench.speed.row import Row
from server.home import Home
from training.data.estimate import estimate_import
from training.data.importing import ImportRequest

EVENTS_PER_VIEWER = 10
"""And per video: a million of each at ten million events."""
_CHUNK = 1_000_000
_START, _SPAN = 1_700_000_000, 90 * 86_400
"""Unix seconds of the first event; seconds to the last."""


def measure_import(home: Home, events: int, progress: Console) -> list[Row]:
    """Import made-up files in a process of its own.

    Args:
        home: where there is room for them; what is made is removed.
        events: how many.
        progress: told what is being done.

    Raises:
        VireoError: the import fails.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".memory-", dir=home.root) as scratch:
        progress.print(f"importing {events:,} events")
        request = write_files(Path(scratch), events)
        command = ["data", "import", "--interactions", str(request.interactions)]
        peak = peak_memory(Home(Path(scratch)), [*command, "--videos", str(request.videos)])
        return peak_rows("import", events, peak, estimate_import(request).memory.needed)


def write_files(folder: Path, events: int, seed: int = 0) -> ImportRequest:
    """Write CSV files of events in no order, a tenth as many viewers, and as many videos.

    Args:
        folder: where to.
        events: how many.
        seed: of the random draws.
    """
    random = np.random.default_rng(seed)
    entities = max(3, events // EVENTS_PER_VIEWER)
    request = ImportRequest("mine", folder / "interactions.csv", folder / "videos.csv")
    numbers = np.arange(entities)
    titles = _ids("A film that has the number ", numbers)
    columns = {"video_id": _ids("video-", numbers), "title": titles, "tags": _ids("a|b|", numbers)}
    pyarrow.csv.write_csv(pa.table(columns), request.videos)
    schema = pa.schema(
        {"viewer_id": pa.string(), "video_id": pa.string(), "timestamp": pa.string()}
        | {"event": pa.string(), "watched_fraction": pa.float32()}
    )
    with pyarrow.csv.CSVWriter(request.interactions, schema) as writer:
        for start in range(0, events, _CHUNK):
            count = min(_CHUNK, events - start)
            seconds = pa.array(_START + random.integers(0, _SPAN, count))
            columns = {
                "viewer_id": _ids("viewer-", random.integers(0, entities, count)),
                "video_id": _ids("video-", random.integers(0, entities, count)),
                "timestamp": seconds.cast(pa.timestamp("s", tz="UTC")).cast(pa.string()),
                "event": pa.array(["play", "like"]).take(pa.array(random.integers(0, 2, count))),
                "watched_fraction": random.random(count, np.float32),
            }
            writer.write_table(pa.table(columns, schema))
    return request


def _ids(prefix: str, numbers: npt.NDArray[np.int64]) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")
