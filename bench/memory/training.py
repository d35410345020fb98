"""The peak memory of `vireo features build` and `vireo train`, and of what each said before.

Memory doesn't grow with the number of steps, so the towers are trained for a minute instead of a
pass over all watches; everything else is as in profile `large`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from bench.memory.importing import EVENTS_PER_VIEWER
from bench.memory.peak import peak_memory, peak_rows
from bench.speed.row import Row
from server.home import Home
from training.data.synth.world import WorldConfig
from training.data.synth.writing import write_world
from training.memory import features_memory, training_memory
from training.profile import PROFILES, read_profile

_MINUTES = 1.0
_DATA = "made-up"


def measure_training(home: Home, events: int, progress: Console) -> Iterator[Row]:
    """Build features of a made-up world and train on it, each in a process of its own.

    Args:
        home: where there is room for them; what is made is removed.
        events: how many; a tenth as many viewers, and as many videos.
        progress: told what is being done.

    Raises:
        VireoError: a command fails.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".memory-", dir=home.root) as scratch:
        own = Home(Path(scratch))
        entities = max(3, events // EVENTS_PER_VIEWER)
        info = write_world(own, _DATA, WorldConfig(entities, entities, events))
        progress.print(f"building features of {events:,} events")
        peak = peak_memory(own, ["features", "build", _DATA])
        yield from peak_rows("features", events, peak, features_memory(info).needed)
        progress.print(f"training on {events:,} events")
        profile = write_profile(own.root / "brief.toml")
        # The second fit holds no more than the first, and makes a whole pass.
        command = ["train", "--data", _DATA, "--profile", str(profile), "--no-refit"]
        peak = peak_memory(own, command)
        said = training_memory(info, read_profile(profile)).needed
        yield from peak_rows("training", events, peak, said)


def write_profile(path: Path) -> Path:
    """Write a profile that is `large` for _MINUTES, and return its path."""
    large = (PROFILES / "large.toml").read_text()
    section = "[retrieval]\n"
    path.write_text(large.replace(section, f"{section}max_minutes = {_MINUTES}\n", 1))
    return path
