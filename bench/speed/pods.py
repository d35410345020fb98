"""What pods of a release take: how long until they serve, and how much memory.

    vireo bench pods

They start from a warm cache, as pods do that are started again. A pod's memory is what it has
resident, and every page of the release's files that it has mapped but not read yet. Files and
libraries are in memory once for all pods of a machine: a second pod adds only what no file backs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import psutil
from rich.console import Console

from bench.speed.another_pod import another_pod
from bench.speed.asked import asked, checked_shots
from bench.speed.row import Row
from bench.speed.stand import Stand, stand
from server.home import Home
from training.features.watches import load_watches

_START_SECONDS = 3.0
_MEGABYTES = {"candidate": 500.0, "ranking": 600.0}
_OWN_MEGABYTES = 150.0

Inner: TypeAlias = Literal["candidate", "ranking"]


@dataclass(frozen=True)
class PodsPlan:
    """How much to do."""

    rounds: int = 3
    viewers: int = 200
    """Who are asked for before memory is looked at."""


@dataclass(frozen=True)
class Memory:
    """Of one process, in megabytes of 1,000,000 bytes."""

    whole: float
    """Resident, with the whole of the release's files."""
    own: float
    """What no file backs."""


def measure_pods(home: Home, dataset: str, plan: PodsPlan, console: Console) -> list[Row]:
    """Serves the newest release that was trained on a data set and looks at its pods.

    Raises:
        VireoError: nothing was trained, a pod does not start, or an answer is wrong.
    """
    viewers = load_watches(home, dataset)["viewer_id"].drop_duplicates().head(plan.viewers)
    with stand(home, dataset, "pods", direct=False) as running:
        questions = asked(running.release, running.features, viewers.tolist())
        asyncio.run(checked_shots(running.edge, questions, running.home.root))
        rows = []
        for service in ("candidate", "ranking"):
            rows += _rows(running, service, plan)
            console.print(f"{service} done")
        return rows


def _rows(running: Stand, service: Inner, plan: PodsPlan) -> list[Row]:
    memory = memory_of(running.pids[service], running.home.cache)
    starts = []
    for _ in range(plan.rounds):
        like = running.pods[f"{service}-1"]
        with another_pod(like, service, running.environment, running.home.logs) as pod:
            starts.append(pod.started)
    return [
        Row.over_rounds(f"start of a {service} pod to SERVING, s", starts, _START_SECONDS),
        Row(f"memory of a {service} pod, MB", memory.whole, bound=_MEGABYTES[service]),
        Row(f"memory that a second {service} pod adds, MB", memory.own, bound=_OWN_MEGABYTES),
    ]


def memory_of(pid: int, cache: Path) -> Memory:
    """The memory of a process that has mapped files below `cache`."""
    process = psutil.Process(pid)
    areas = process.memory_maps()
    files = [area for area in areas if area.path.startswith(str(cache))]
    unread = sum(area.size - area.rss for area in files)
    own = sum(area.anonymous for area in areas)
    return Memory((process.memory_info().rss + unread) / 1e6, own / 1e6)
