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
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
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
    home.root.mkdir(parents=True, exist_ok=True)
    for events in sizes:
        with tempfile.TemporaryDirectory(prefix=".memory-", dir=home.root) as folder:
            own, entities = Home(Path(folder)), max(3, events // _EVENTS_PER_VIEWER)
            info = write_world(own, _DATA, WorldConfig(entities, entities, events))
            files, profile = write_files(own), write_profile(own.root / "brief.toml")
            import_ = ["data", "import", "--interactions", f"{files.interactions}"]
            # The second fit holds no more than the first, and makes a whole pass.
            train = ["train", "--data", _DATA, "--profile", f"{profile}", "--no-refit", "--force"]
            steps = {
                "import": (
                    [*import_, "--videos", f"{files.videos}", "--name", files.name],
                    estimate_import(files)[1],
                ),
                "features": (["features", "build", _DATA], features_memory(info)),
                "training": (train, training_memory(info, read_profile(profile))),
            }
            for step, (command, estimate) in steps.items():
                name = f"{step}, {events:,} events"
                progress.print(f"measuring {name}")
                peak = peak_memory(own, command)
                over = estimate.needed / peak
                yield Row(f"{name}: peak memory in GB", peak / _GB, bound=MAX_GB)
                yield Row(f"{name}: memory said before, over used", over, bound=1, at_least=True)


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


def write_files(home: Home) -> ImportRequest:
    """Write the CSV files that a site would have of the made-up world, events in random order."""
    world, folder = home.data(_DATA), home.root
    request = ImportRequest("mine", folder / "interactions.csv", folder / "videos.csv")
    events = pq.read_table(world / "interactions.parquet")
    order = np.random.default_rng(0).permutation(len(events))
    names = ["viewer_id", "video_id", "timestamp", "event", "watched_fraction"]
    pyarrow.csv.write_csv(events.select(names).take(pa.array(order)), request.interactions)
    videos = pq.read_table(world / "videos.parquet", columns=["video_id", "title"])
    pyarrow.csv.write_csv(videos, request.videos)
    return request


def write_profile(path: Path) -> Path:
    """Write a profile that is `large` with a minute for the towers, and return its path."""
    large = (PROFILES / "large.toml").read_text()
    section = "[retrieval]\n"
    path.write_text(large.replace(section, f"{section}max_minutes = {_MINUTES}\n", 1))
    return path
