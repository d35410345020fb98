"""The peak memory of each step from a site's files to a release, at several sizes.

vireo bench memory
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console

from bench.memory.importing import measure_import
from bench.memory.training import measure_training
from bench.speed.row import Row
from server.home import Home

EVENTS = (1_000_000, 10_000_000)


def measure_memory(home: Home, sizes: Sequence[int], progress: Console) -> Iterator[Row]:
    """Yield the rows of each step as it ends.

    Args:
        home: where there is room for what is made, some 7 GB for ten million events; it is
            removed.
        sizes: how many events to measure with, in turn.
        progress: told what is being done.

    Raises:
        VireoError: a step fails.
    """
    for events in sizes:
        yield from measure_import(home, events, progress)
        yield from measure_training(home, events, progress)
