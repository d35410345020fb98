"""What pods of a release take: how long until they serve, and how much memory.

    vireo bench pods

They start from a warm cache, as pods do that are started again. A pod's memory is what it has
resident, and every page of the release's files that it has mapped but not read yet.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import psutil
from rich.console import Console

from bench.speed.another_pod import another_pod
from bench.speed.asked import checked_shots
from bench.speed.row import Row
from bench.speed.stand import Stand, stand
from server.home import Home

_START_SECONDS = 3.0
_MEGABYTES = {"candidate": 500.0, "ranking": 600.0}

Inner: TypeAlias = Literal["candidate", "ranking"]


@dataclass(frozen=True)
class PodsPlan:
    """How much to do."""

    rounds: int = 3
    viewers: int = 200
    """Who are asked for before memory is looked at."""


def measure_pods(home: Home, dataset: str, plan: PodsPlan, console: Console) -> list[Row]:
    """Serves the newest release that was trained on a data set and looks at its pods.

    Raises:
        VireoError: nothing was trained, a pod does not start, or an answer is wrong.
    """
    with stand(home, dataset, "pods", direct=False) as running:
        questions = running.questions(plan.viewers)
        asyncio.run(checked_shots(running.edge, questions, running.home.root))
        rows = []
        for service in ("candidate", "ranking"):
            rows += _rows(running, service, plan)
            console.print(f"{service} done")
        return rows


def _rows(running: Stand, service: Inner, plan: PodsPlan) -> list[Row]:
    memory = memory_of(running.pids[service], running.home.cache)
    like, logs = running.pods[f"{service}-1"], running.home.logs
    starts = []
    for _ in range(plan.rounds):
        with another_pod(like, service, running.environment, logs) as pod:
            starts.append(pod.started)
    return [
        Row.over_rounds(f"start of a {service} pod to SERVING, s", starts, _START_SECONDS),
        Row(f"memory of a {service} pod, MB", memory, bound=_MEGABYTES[service]),
    ]


def memory_of(pid: int, cache: Path) -> float:
    """Return megabytes (10**6 bytes) resident, with all of the files below `cache` that it maps."""
    process = psutil.Process(pid)
    files = [area for area in process.memory_maps() if area.path.startswith(str(cache))]
    unread = sum(area.size - area.rss for area in files)
    return float(process.memory_info().rss + unread) / 1e6
