"""The peak memory of each step from a site's files to a release, over what the step estimates.

Each step runs in a process of its own. Memory doesn't grow with the number of training steps, so
the towers train for a minute instead of a pass; everything else is as in profile `large`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from rich.console import Console

from bench.rows import Row
from vireo.ops.cli.own_stack import VIREO
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.importing import ImportRequest
from vireo.training.data.synth.world import WorldConfig
from vireo.training.data.synth.writing import write_world
from vireo.training.profile import (
    PROFILES,
    estimate_import,
    features_memory,
    read_profile,
    training_memory,
)

EVENTS = (1_000_000, 10_000_000)
MAX_GB = 4.0
_GB = 1e9
_EVENTS_PER_VIEWER = 10
"""And per video: a million of each at ten million events."""
_CHUNK = 1_000_000
_START, _SPAN = 1_700_000_000, 90 * 86_400
"""Unix seconds of the first event; seconds to the last."""
_MINUTES = 1.0
_DATA = "made-up"

# A process inherits the peak of the one that started it, so a small one is put between.
_LAUNCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
unit = 1 if sys.platform == "darwin" else 1024
print(unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def measure_memory(home: Home, sizes: Sequence[int], progress: Console) -> Iterator[Row]:
    """Yield the rows of each step as it ends.

    Args:
        home: gets temporary files, some 7 GB for ten million events.
        sizes: numbers of events to measure with, in turn.
        progress: where the steps are shown.

    Raises:
        VireoError: a step fails.
    """
    for events in sizes:
        yield from measure_import(home, events, progress)
        yield from measure_training(home, events, progress)


def measure_import(home: Home, events: int, progress: Console) -> Iterator[Row]:
    """Import made-up CSV files; arguments as of `measure_memory`."""
    with _scratch(home) as own:
        progress.print(f"importing {events:,} events")
        request = write_files(own.root, events)
        command = ["data", "import", "--interactions", str(request.interactions)]
        peak = peak_memory(own, [*command, "--videos", str(request.videos)])
        yield from peak_rows("import", events, peak, estimate_import(request).memory.needed)


def measure_training(home: Home, events: int, progress: Console) -> Iterator[Row]:
    """Build features of a made-up world and train on it; arguments as of `measure_memory`."""
    with _scratch(home) as own:
        entities = _entities(events)
        info = write_world(own, _DATA, WorldConfig(entities, entities, events))
        progress.print(f"building features of {events:,} events")
        peak = peak_memory(own, ["features", "build", _DATA])
        yield from peak_rows("features", events, peak, features_memory(info).needed)
        progress.print(f"training on {events:,} events")
        profile = write_profile(own.root / "brief.toml")
        # The second fit holds no more than the first, and makes a whole pass.
        command = ["train", "--data", _DATA, "--profile", str(profile), "--no-refit", "--force"]
        peak = peak_memory(own, command)
        estimated = training_memory(info, read_profile(profile)).needed
        yield from peak_rows("training", events, peak, estimated)


def peak_memory(home: Home, arguments: Sequence[str]) -> int:
    """Run a `vireo` command in a home; return the peak resident bytes of its largest process.

    Raises:
        VireoError: the command fails.
    """
    environment = {**os.environ, "VIREO_HOME": str(home.root)}
    command = [sys.executable, "-c", _LAUNCHER, *VIREO, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise VireoError(f"vireo {arguments[0]} failed: {done.stderr.strip()[-2000:]}")
    return int(done.stdout)


def peak_rows(step: str, events: int, peak: int, estimated: int) -> list[Row]:
    """Return the rows of a step: its peak in bytes, and the bytes that it estimated, over that."""
    name = f"{step}, {events:,} events"
    return [
        Row(f"{name}: peak memory in GB", peak / _GB, bound=MAX_GB),
        Row(f"{name}: memory said before, over used", estimated / peak, bound=1.0, at_least=True),
    ]


def write_files(folder: Path, events: int, seed: int = 0) -> ImportRequest:
    """Write CSV files of events in random order, a tenth as many viewers, and as many videos."""
    random, entities = np.random.default_rng(seed), _entities(events)
    request = ImportRequest("mine", folder / "interactions.csv", folder / "videos.csv")
    numbers = np.arange(entities)
    titles = _ids("A film that has the number ", numbers)
    columns = {"video_id": _ids("video-", numbers), "title": titles, "tags": _ids("a|b|", numbers)}
    pyarrow.csv.write_csv(pa.table(columns), request.videos)
    text = ("viewer_id", "video_id", "timestamp", "event")
    schema = pa.schema(
        [*((name, pa.string()) for name in text), ("watched_fraction", pa.float32())]
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


def write_profile(path: Path) -> Path:
    """Write a profile that is `large` with a minute for the towers, and return its path."""
    large = (PROFILES / "large.toml").read_text()
    section = "[retrieval]\n"
    path.write_text(large.replace(section, f"{section}max_minutes = {_MINUTES}\n", 1))
    return path


@contextmanager
def _scratch(home: Home) -> Iterator[Home]:
    home.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".memory-", dir=home.root) as folder:
        yield Home(Path(folder))


def _entities(events: int) -> int:
    return max(3, events // _EVENTS_PER_VIEWER)


def _ids(prefix: str, numbers: npt.NDArray[np.int64]) -> pa.Array:
    return pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")
