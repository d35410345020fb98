"""Start time and memory of a release's pods.

They start from a warm cache, as restarted pods do. A pod's memory is what it has resident, and
every page of the release's files that it has mapped but not read yet.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
from rich.console import Console

from bench.speed.plan import SpeedPlan
from bench.speed.row import Figures, Row
from bench.speed.stand import Stand, further_pod
from vireo.ops.stack.settings import PodKind

_MAX_START_SECONDS = 3.0
_MAX_MEGABYTES: dict[PodKind, float] = {"candidate": 500.0, "ranking": 600.0}


def pods_rows(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure the pods of a stand that nobody has asked yet, and the start of others like them."""
    rows = []
    asyncio.run(running.edge_target(plan.sample))
    for kind, bound in _MAX_MEGABYTES.items():
        megabytes = memory_of(running.pids[kind], running.stack.home.cache)
        figures = Figures(console)
        for _ in figures.rounds(plan.rounds):
            with further_pod(running.stack, kind) as pod:
                figures.add(f"start of a {kind} pod to SERVING, s", pod.started, _MAX_START_SECONDS)
        rows += figures.rows()
        rows.append(Row(f"memory of a {kind} pod, MB", megabytes, bound=bound))
    return rows


def memory_of(pid: int, cache: Path) -> float:
    """Return megabytes (10**6 bytes) resident, with all of the files below `cache` that it maps."""
    process = psutil.Process(pid)
    files = [area for area in process.memory_maps() if area.path.startswith(str(cache))]
    unread = sum(area.size - area.rss for area in files)
    return float(process.memory_info().rss + unread) / 1e6
