"""All measurements of speed, one after the other.

The release of a large catalogue is served if there is one: it is what a slate of production
costs. What only such a catalogue has is measured then, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace

from rich.console import Console

from bench.rows import Row
from bench.speed.chain import chain_rows
from bench.speed.models import measure_search, measure_tower
from bench.speed.plan import SpeedPlan
from bench.speed.running import measure_catalogue, measure_idle, pods_rows, tail_rows
from bench.speed.stand import Stand, stand
from vireo.server.home import Home

_ON_STAND: Mapping[str, Callable[[Stand, SpeedPlan, Console], list[Row]]] = {
    "chain": chain_rows,
    "tail": tail_rows,
    "pods": pods_rows,
}
_OF_HOME: Mapping[str, Callable[[Home, str, SpeedPlan, Console], list[Row]]] = {
    "idle": measure_idle,
    "tower": measure_tower,
    "search": measure_search,
    "catalogue": measure_catalogue,
}


def measure(
    home: Home, dataset: str, plan: SpeedPlan, console: Console, *names: str
) -> Iterator[Row]:
    """Yield the rows of measurements over the newest release of a data set; they share a stack.

    Raises:
        VireoError: nothing was trained, something does not start, or an answer is wrong.
    """
    with ExitStack() as stands:
        running = None
        for name in names:
            console.print(f"measuring {name}")
            if name in _OF_HOME:
                rows = _OF_HOME[name](home, dataset, plan, console)
            else:
                running = running or stands.enter_context(stand(home, dataset, name))
                rows = _ON_STAND[name](running, plan, console)
            yield from (replace(row, section=name) for row in rows)


def measure_all(
    home: Home, dataset: str, large: str, plan: SpeedPlan, console: Console
) -> Iterator[Row]:
    """Yield the rows of each measurement as it ends; `served_of` chooses the data set.

    Raises:
        VireoError: nothing was trained, something does not start, or an answer is wrong.
    """
    served = served_of(home, dataset, large)
    towers = dataset if home.staged_release(dataset).exists() else served
    yield from measure(home, served, plan, console, "chain", "tail")
    yield from measure(home, served, plan, console, "idle")
    yield from measure(home, towers, plan, console, "tower")
    if served != large:
        console.print(f"no release of {large}: what a large catalogue costs is left out")
        return
    for name in ("search", "pods", "catalogue"):
        yield from measure(home, large, plan, console, name)


def served_of(home: Home, dataset: str, large: str) -> str:
    """Return `large` if a release of it was trained, else `dataset`."""
    return large if home.staged_release(large).exists() else dataset
