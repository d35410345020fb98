"""Where each service's processor time goes while the chain is under load.

The gateway, a candidate pod and a ranking pod are sampled in turn, first by py-spy, which knows
functions of Python, then by perf, which knows libraries. A thread that waits for a lock, a message
or its turn on the interpreter is in neither. To py-spy a thread that waits for a core runs, too; so
what a thread took is by the kernel's accounting, samples only say what it was spent on, and the
service that is sampled has a core of its own.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from bench.process import CAN_PIN, cpu_seconds, pin
from bench.speed.asked import checked_target
from bench.speed.h2load import Target
from bench.speed.plan import SpeedPlan
from bench.speed.stand import Stand, stand
from server.cores import allowed_cores
from server.errors import VireoError
from server.home import Home

_SERVICES = {"gateway": "direct", "candidate": "candidate", "ranking": "ranking"}
"""Each service by the process of the stand that is sampled."""
_CALLERS = 32
_MAX_WRONG = 0.01
"""Share of answers that may be late or less than full: what is sampled is still the same work."""
_RATE, _NATIVE_RATE = 200, 997
"""Samples a second by py-spy, and by perf, which takes less."""
_TOP = 25
_THREAD = re.compile(r"thread \((\d+)\)(?:: (.*))?")
_NO_PERF = "perf, Debian's linux-perf, is missing or not permitted"


@dataclass(frozen=True)
class Function:
    """What part of the processor time of the threads that run Python a function has."""

    name: str
    """With its file and line."""
    whole: float
    """While it is anywhere on the stack."""
    own: float
    """While it is what runs, or has called what isn't Python."""


@dataclass(frozen=True)
class Profile:
    """Of one service under load; shares are of its processor time, the largest first."""

    dataset: str
    """Whose release was served."""
    service: str
    milliseconds: float
    """Processor time of an answer, while it was sampled."""
    threads: Mapping[str, float]
    """Share of each, by name."""
    functions: list[Function]
    """Those that run most themselves."""
    libraries: Mapping[str, float]
    """Share of each; empty if perf can't sample."""


def measure_profile(
    home: Home, dataset: str, plan: SpeedPlan, seconds: int, folder: Path, console: Console
) -> list[Profile]:
    """Sample the services of a stack of its own under load.

    Args:
        home: where a release was trained.
        dataset: on which data set.
        plan: viewers whose slates are asked for, and requests of a volley of load.
        seconds: how long each tool samples each service.
        folder: gets a flame graph of each, `<service>.svg`.
        console: where progress is shown.

    Raises:
        VireoError: nothing was trained, the stack does not start, an answer is wrong, or py-spy
            may not sample.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with stand(home, dataset, "profile") as running:
        return asyncio.run(_profiles(running, plan, seconds, folder, console))


async def _profiles(
    running: Stand, plan: SpeedPlan, seconds: int, folder: Path, console: Console
) -> list[Profile]:
    profiles = []
    questions = running.questions(plan.viewers)
    gateway = await checked_target("the gateway", running.direct, questions, running.folder)
    await gateway.fire(0, _CALLERS, plan.requests)  # what is slow only once
    for service, process in _SERVICES.items():
        pid, done = running.pids[process], asyncio.Event()
        with _core_of_its_own(process, running):
            before = cpu_seconds(pid)
            loading = asyncio.create_task(_load(gateway, plan.requests, done))
            try:
                graph = folder / f"{service}.svg"
                await asyncio.to_thread(_spy, pid, seconds, "flamegraph", graph)
                stacks = await asyncio.to_thread(_stacks, pid, seconds, running.folder)
                libraries = await asyncio.to_thread(_libraries, pid, seconds, running.folder)
            finally:
                done.set()
                answers = await loading
            milliseconds = 1000 * (cpu_seconds(pid) - before) / answers
        profiles.append(Profile(running.dataset, service, milliseconds, *stacks, libraries))
        console.print(f"{service} done" if libraries else f"{service} done; {_NO_PERF}")
    return profiles


async def _load(target: Target, requests: int, done: asyncio.Event) -> int:
    """Ask until `done`, and return how many answers there were."""
    answers = number = 0
    while not done.is_set():
        number += 1
        volley = await target.fire(number, _CALLERS, requests, max_wrong=_MAX_WRONG)
        answers += volley.requests
    return answers


def _spy(pid: int, seconds: int, form: str, output: Path) -> None:
    """Have py-spy sample a process without stopping it, which would double what is measured."""
    spy = Path(sys.executable).with_name("py-spy")
    if not spy.exists():
        raise VireoError(f"{spy} is missing; install it with: make setup")
    sampled = [f"--pid={pid}", f"--duration={seconds}", f"--rate={_RATE}", "--nonblocking"]
    written = ["--threads", "--function", f"--format={form}", f"--output={output}"]
    run = subprocess.run([spy, "record", *sampled, *written], capture_output=True, text=True)
    if run.returncode:
        words = (run.stdout + run.stderr).strip()[-300:]
        raise VireoError(f"py-spy could not sample process {pid} (it may need root): {words}")


def _stacks(pid: int, seconds: int, folder: Path) -> tuple[Mapping[str, float], list[Function]]:
    """Sample a process, and return the shares of its threads and functions."""
    output, process = folder / "stacks", psutil.Process(pid)
    before = {each.id: each for each in process.threads()}
    _spy(pid, seconds, "raw", output)
    used = {
        each.id: each.user_time + each.system_time - (was.user_time + was.system_time)
        for each in process.threads()
        if (was := before.get(each.id))
    }
    return parse_stacks(output.read_text(), used)


def parse_stacks(
    collapsed: str, used: Mapping[int, float]
) -> tuple[Mapping[str, float], list[Function]]:
    """Share out the processor time of threads among the functions that were seen in them.

    Args:
        collapsed: lines of `frame;frame;frame count` by py-spy, the first frame being the thread.
        used: processor seconds of each thread meanwhile, by the kernel's id.

    Returns:
        Shares of threads, by name, and functions, the most time of their own first.

    Raises:
        VireoError: py-spy saw nothing run.
    """
    samples: Counter[int] = Counter()
    names, stacks = {}, []
    for line in collapsed.splitlines():
        stack, _, count = line.rpartition(" ")
        first, *frames = stack.split(";")
        if (thread := _THREAD.fullmatch(first)) is None:
            raise VireoError(f"py-spy wrote a line that begins with no thread: {line[:200]}")
        tid = int(thread[1])
        names[tid] = thread[2] or "thread without a name"
        samples[tid] += int(count)
        stacks.append((tid, frames, int(count)))
    threads, whole, own = (defaultdict[str, float](float) for _ in range(3))
    for tid, seconds in used.items():
        threads[names.get(tid, "threads that run no Python")] += seconds
    for tid, frames, seen in stacks:
        seconds = used.get(tid, 0.0) * seen / samples[tid]
        for frame in set(frames):  # one that calls itself counts once
            whole[frame] += seconds
        own[frames[-1] if frames else names[tid]] += seconds
    if not (total := sum(own.values())):
        raise VireoError("py-spy saw nothing run")
    top = sorted(own, key=lambda frame: -own[frame])[:_TOP]
    functions = [Function(frame, whole[frame] / total, own[frame] / total) for frame in top]
    return _shares(threads), functions


def _libraries(pid: int, seconds: int, folder: Path) -> Mapping[str, float]:
    """Return each library's share of a process's processor time; none if perf can't sample."""
    if shutil.which("perf") is None:
        return {}
    data = f"{folder / 'perf.data'}"
    record = ["record", "-q", "-e", "cpu-clock", f"-F{_NATIVE_RATE}", f"-p{pid}", f"-o{data}"]
    report = ["report", f"-i{data}", "--stdio", "--sort=dso", "-t;"]
    if _perf([*record, "--", "sleep", str(seconds)]).returncode:
        return {}
    lines = re.findall(r"^ *([\d.]+)% *;(.*?) *$", _perf(report).stdout, re.MULTILINE)
    return _shares({name: float(percent) for percent, name in lines})


def _perf(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["perf", *arguments], capture_output=True, text=True, errors="replace")


def _shares(amounts: Mapping[str, float]) -> Mapping[str, float]:
    total = sum(amounts.values()) or 1.0
    ordered = sorted(amounts.items(), key=lambda each: -each[1])
    return {name: amount / total for name, amount in ordered}


@contextmanager
def _core_of_its_own(process: str, running: Stand) -> Iterator[None]:
    """Keep everything else away from the core of a process, if it may have one."""
    mine = allowed_cores()
    first, *others = mine
    if not others or not CAN_PIN:
        yield
        return
    for each in _SERVICES.values():
        for thread in psutil.Process(running.pids[each]).threads():
            pin([first] if each == process else others, thread.id)
    pin(others)  # h2load and the samplers inherit it
    try:
        yield
    finally:
        pin(mine)
