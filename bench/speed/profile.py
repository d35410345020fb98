"""Flame graphs of each service while the chain is under load, by py-spy.

To py-spy a thread that waits for a core runs, too; so the sampled service has a core of its own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from bench.process import cpu_seconds
from bench.speed.h2load import Target
from bench.speed.plan import SpeedPlan
from bench.speed.questions import checked_target, questions_of
from bench.speed.stand import Stand, stand
from vireo.server.cores import allowed_cores
from vireo.server.errors import VireoError
from vireo.server.home import Home

_SERVICES = {"gateway": "direct", "candidate": "candidate", "ranking": "ranking"}
"""Each service by the process of the stand that is sampled."""
_CALLERS = 32
_MAX_WRONG = 0.01
"""Share of answers that may be late or less than full: what is sampled is still the same work."""
_RATE = 200
"""Samples a second."""


@dataclass(frozen=True)
class Profile:
    """One service under load; its flame graph is `<service>.svg`."""

    dataset: str
    """Data set of the release that was served."""
    service: str
    milliseconds: float
    """Processor time of an answer, while it was sampled."""


def measure_profile(
    home: Home, dataset: str, plan: SpeedPlan, seconds: int, folder: Path, console: Console
) -> list[Profile]:
    """Sample the services of a stack of its own under load.

    Args:
        home: where a release was trained.
        dataset: on which data set.
        plan: viewers whose slates are asked for, and requests of a run of load.
        seconds: how long to sample each service.
        folder: gets the flame graphs.
        console: where progress is shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with stand(home, dataset, "profile") as running:
        return asyncio.run(_profiles(running, plan, seconds, folder, console))


async def _profiles(
    running: Stand, plan: SpeedPlan, seconds: int, folder: Path, console: Console
) -> list[Profile]:
    profiles = []
    questions = questions_of(running.home, running.dataset, plan.viewers)
    gateway = await checked_target("the gateway", running.direct, questions, running.folder)
    await gateway.load(0, _CALLERS, plan.requests)  # warm up
    for service, process in _SERVICES.items():
        pid, done = running.pids[process], asyncio.Event()
        with _core_of_its_own(process, running):
            before = cpu_seconds(pid)
            loading = asyncio.create_task(_load(gateway, plan.requests, done))
            try:
                await asyncio.to_thread(_sample, pid, seconds, folder / f"{service}.svg")
            finally:
                done.set()
                answers = await loading
            milliseconds = 1000 * (cpu_seconds(pid) - before) / answers
        profiles.append(Profile(running.dataset, service, milliseconds))
        console.print(f"{service} done")
    return profiles


async def _load(target: Target, requests: int, done: asyncio.Event) -> int:
    """Ask until `done`, and return the number of answers."""
    answers = number = 0
    while not done.is_set():
        number += 1
        found = await target.load(number, _CALLERS, requests, max_wrong=_MAX_WRONG)
        answers += found.requests
    return answers


def _sample(pid: int, seconds: int, graph: Path) -> None:
    """Sample a process without stopping it, which would double what is measured."""
    spy = Path(sys.executable).with_name("py-spy")
    if not spy.exists():
        raise VireoError(f"{spy} is missing; install it with: make setup")
    options = [f"--pid={pid}", f"--duration={seconds}", f"--rate={_RATE}", f"--output={graph}"]
    command = [str(spy), "record", "--nonblocking", "--threads", "--function", *options]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        output = (run.stdout + run.stderr).strip()[-300:]
        raise VireoError(f"py-spy could not sample process {pid} (it may need root): {output}")


@contextmanager
def _core_of_its_own(process: str, running: Stand) -> Iterator[None]:
    """Keep everything else away from the core of a process, if there are several."""
    mine = allowed_cores()
    first, *others = mine
    if not others or not hasattr(os, "sched_setaffinity"):  # macOS has none
        yield
        return
    for each in _SERVICES.values():
        for thread in psutil.Process(running.pids[each]).threads():
            os.sched_setaffinity(thread.id, [first] if each == process else others)
    os.sched_setaffinity(0, others)  # h2load and the sampler inherit it
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)
