"""Where each service's processor time goes while the chain is under load.

    vireo bench profile

Each of the gateway, a candidate pod and a ranking pod is sampled in turn, first by py-spy, which
knows functions of Python, then by perf, which knows libraries. A thread that waits for a lock, a
message or its turn on the interpreter is in neither. To py-spy a thread that waits for a core runs,
too; so the service that is sampled has one of its own, and all else the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from bench.speed.asked import Asked, checked_shots, recommend_url
from bench.speed.cpu import CAN_PIN, cpu_seconds, pin
from bench.speed.flame import flame_graph
from bench.speed.h2load import Shot, Volley, fire
from bench.speed.native import Native, Share, sampled_natively, shares
from bench.speed.stacks import Function, Sampled, sampled
from bench.speed.stand import Stand, stand
from server.errors import VireoError
from server.home import Home
from server.rpc.cores import allowed_cores

_SERVICES = {"gateway": "direct", "candidate": "candidate", "ranking": "ranking"}
"""Each service by the process of the stand that is sampled."""
_SENDERS = 8
_TOP_OURS, _TOP_OWN = 20, 10
_WRONG = 0.01
"""Share of answers that may be late or less than full: what is sampled is still the same work."""


@dataclass(frozen=True)
class ProfilePlan:
    """How much to do."""

    callers: int = 32
    viewers: int = 40
    requests: int = 1200
    """Of a volley of load; one follows the other while processes are sampled."""
    seconds: int = 25
    """Of py-spy, of each service."""
    native_seconds: int = 10
    """Of perf, of each service."""
    rate: int = 200
    """Samples a second of each thread that runs, by py-spy."""
    native_rate: int = 997
    """By perf, which takes less."""


@dataclass(frozen=True)
class Profile:
    """Of one service under load."""

    dataset: str
    """Whose release was served."""
    service: str
    milliseconds: float
    """Of its processor time an answer, while it was sampled."""
    answers: int
    wrong: int
    """Of these, answers that were late or less than full: something else took the cores."""
    samples: int
    """Of py-spy, one for each thread that runs or waits for a core."""
    on_core: float
    """Share of these in which it had one, by the processor time that it took meanwhile."""
    threads: list[Share]
    """Of its processor time."""
    ours: list[Function]
    """The functions of this project with the largest shares."""
    own: list[Function]
    """Those of all with the largest shares of their own, or of what they call that isn't Python."""
    native: Native | None
    """None where perf can't sample."""
    native_missing: str
    """Why it can't; empty where it can."""
    flame: str
    """SVG of the flame graph."""

    def document(self) -> dict[str, Any]:
        """The profile for programs, without its picture."""
        return {name: value for name, value in asdict(self).items() if name != "flame"}


def measure_profile(home: Home, dataset: str, plan: ProfilePlan, console: Console) -> list[Profile]:
    """Samples the services of a stack of its own under load.

    Raises:
        VireoError: nothing was trained, the stack does not start, an answer is wrong, or py-spy
            may not sample.
    """
    with stand(home, dataset, "profile") as running:
        questions = running.questions(plan.viewers)
        return asyncio.run(_under_load(running, questions, plan, console))


async def _under_load(
    running: Stand, questions: Sequence[Asked], plan: ProfilePlan, console: Console
) -> list[Profile]:
    shots = await checked_shots(running.direct, questions, running.home.root)
    await _volley(running, shots, 0, plan)  # what is slow only once
    profiles = []
    for service in _SERVICES:
        with _core_of_its_own(service, running):
            profiles.append(await _profile(service, running, shots, plan))
        console.print(f"{service} done, {profiles[-1].samples:,} samples")
    return profiles


async def _profile(
    service: str, running: Stand, shots: Sequence[Shot], plan: ProfilePlan
) -> Profile:
    """Samples a service while it is asked.

    Raises:
        VireoError: it can't be sampled, or so many answers are wrong that it's other work.
    """
    pid, done = running.pids[_SERVICES[service]], asyncio.Event()
    before = _seconds(pid)
    loading = asyncio.create_task(_load(running, shots, plan, done))
    try:
        found, native = await asyncio.to_thread(_sampled, pid, running.home.root / service, plan)
    finally:
        done.set()
        answers, wrong = await loading
    if wrong > _WRONG * answers:
        raise VireoError(f"{wrong} of {answers} answers are not those that they must be")
    used = _seconds(pid) - before
    stacks = found.stacks
    functions = stacks.functions()
    return Profile(
        dataset=running.dataset,
        service=service,
        milliseconds=1000 * used / answers,
        answers=answers,
        wrong=wrong,
        samples=stacks.samples,
        on_core=min(1.0, stacks.total * plan.rate / stacks.samples),
        threads=shares(found.seconds),
        ours=[each for each in functions if each.ours][:_TOP_OURS],
        own=sorted(functions, key=lambda each: -each.own)[:_TOP_OWN],
        native=native if isinstance(native, Native) else None,
        native_missing="" if isinstance(native, Native) else native,
        flame=flame_graph(stacks, f"{service}, {stacks.samples:,} samples"),
    )


def _sampled(pid: int, output: Path, plan: ProfilePlan) -> tuple[Sampled, Native | str]:
    """What py-spy sees, and after it perf, or why perf sees nothing."""
    found = sampled(pid, plan.seconds, plan.rate, output.with_suffix(".stacks"))
    return found, sampled_natively(
        pid, plan.native_seconds, plan.native_rate, output.with_suffix(".perf")
    )


def _seconds(pid: int) -> float:
    """Of processor time that a process has had."""
    return cpu_seconds({"": pid})[""]


async def _load(
    running: Stand, shots: Sequence[Shot], plan: ProfilePlan, done: asyncio.Event
) -> tuple[int, int]:
    """Asks until `done`; how many answers there were, and how many of them wrong."""
    answers = wrong = number = 0
    while not done.is_set():
        number += 1
        volley = await _volley(running, shots, number, plan)
        answers, wrong = answers + volley.requests, wrong + volley.wrong
    return answers, wrong


async def _volley(running: Stand, shots: Sequence[Shot], number: int, plan: ProfilePlan) -> Volley:
    return await fire(
        recommend_url(running.direct),
        [shots[(number * _SENDERS + place) % len(shots)] for place in range(_SENDERS)],
        running.home.root,
        callers=plan.callers,
        requests=plan.requests,
    )


@contextmanager
def _core_of_its_own(service: str, running: Stand) -> Iterator[None]:
    """Keeps everything else away from the core of a service, where it may have one."""
    mine = allowed_cores()
    first, *others = mine
    if not others or not CAN_PIN:
        yield
        return
    for each, process in _SERVICES.items():
        for thread in psutil.Process(running.pids[process]).threads():
            pin([first] if each == service else others, thread.id)
    pin(others)  # h2load and the samplers inherit it
    try:
        yield
    finally:
        pin(mine)
