"""What a whole chain costs over the floor, directly and through Envoy.

    vireo bench chain

Every round measures the floor and each chain one after the other, so that whatever else the
machine does falls on all of them alike; figures are ratios within a round.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
from rich.console import Console

from bench.speed.asked import PAGE, Asked, check_while, checked_shots, recommend_url
from bench.speed.cpu import cpu_seconds
from bench.speed.floor import FloorProcess, Timing
from bench.speed.h2load import Shot, Volley, fire
from bench.speed.row import Row
from bench.speed.stand import Stand, stand
from server.errors import VireoError
from server.home import Home
from server.rpc.cores import cores

_SENDERS = 8
"""Processes of h2load, each of which sends one viewer's request."""
_CPU_BOUNDS = {"direct": 1.75, "envoy": 2.1}
_P50_BOUNDS = {"direct": 2.2, "envoy": 2.8}
_PROCESSES = {
    "direct": ("direct", "candidate", "ranking"),
    "inner": ("gateway", "envoy", "candidate", "ranking"),
    "envoy": ("envoy", "gateway", "candidate", "ranking"),
}
"""The processes behind each chain: without Envoy, with it on the inner hops, at the edge too."""
_SAYS = {
    "direct": "the chain without Envoy",
    "inner": "the chain with Envoy on inner hops",
    "envoy": "the chain behind Envoy",
    "pipelines": "both pipelines in one process",
}


@dataclass(frozen=True)
class ChainPlan:
    """How much to do."""

    rounds: int = 5
    callers: int = 32
    requests: int = 1200
    """Of each chain in each round with many callers."""
    alone: int = 200
    """Of each in each round with one caller."""
    viewers: int = 40
    """Of the data set, with its features."""


@dataclass
class _Figures:
    """Seconds by way, a value each round; `rate` is in answers a second."""

    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    p50: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rate: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    shares: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """Processor time of each process of each chain."""


def measure_chain(home: Home, dataset: str, plan: ChainPlan, console: Console) -> list[Row]:
    """Runs the whole measurement on a stack of its own.

    Raises:
        VireoError: nothing was trained, the stack does not start, or an answer is wrong.
    """
    with stand(home, dataset, "chain") as running:
        questions = running.questions(plan.viewers)
        return asyncio.run(chain_rows(running, questions, plan, console))


async def chain_rows(
    running: Stand, questions: Sequence[Asked], plan: ChainPlan, console: Console
) -> list[Row]:
    """The measurement on a stack that runs.

    Raises:
        VireoError: an answer is wrong.
    """
    targets = {"direct": running.direct, "inner": running.gateway, "envoy": running.edge}
    folder = running.home.root
    chains = [
        _Chain(way, target, running, questions, await checked_shots(target, questions, folder))
        for way, target in targets.items()
    ]
    bodies = [question.candidates for question in questions]
    figures = _Figures()
    with ExitStack() as processes:
        # As many as cores: the chain keeps all of them busy, too, and cores share caches.
        floors = [
            processes.enter_context(FloorProcess(running.release, bodies, PAGE))
            for _ in range(cores())
        ]
        await _round(0, floors, chains, replace(plan, requests=64, alone=16), _Figures())
        for number in range(1, plan.rounds + 1):
            await _round(number, floors, chains, plan, figures)
            console.print(f"round {number} of {plan.rounds} done")
    return _rows(figures)


async def _round(
    number: int,
    floors: Sequence[FloorProcess],
    chains: Sequence[_Chain],
    plan: ChainPlan,
    figures: _Figures,
) -> None:
    """Every way once, with many callers and with one; adds what each took to the figures."""
    for way in ("models", "pipelines"):
        together = await _floor(floors, way, plan.requests // len(floors))
        figures.cpu[way].append(float(np.mean([timing.cpu for timing in together])))
        [alone] = await _floor(floors[:1], way, plan.alone)
        figures.p50[way].append(alone.p50)
    for chain in chains:
        await chain.busy(number, plan, figures)
        await chain.alone(number, plan, figures)


async def _floor(floors: Sequence[FloorProcess], way: str, requests: int) -> list[Timing]:
    for process in floors:
        process.begin(way, requests)
    return [await asyncio.to_thread(process.result) for process in floors]


@dataclass(frozen=True)
class _Chain:
    """One way through the stack."""

    way: str
    target: str
    """host:port that is asked."""
    running: Stand
    questions: Sequence[Asked]
    shots: Sequence[Shot]
    """Of each question."""

    async def busy(self, number: int, plan: ChainPlan, figures: _Figures) -> None:
        """Many callers: processor time of each process, and answers a second."""
        pids = {name: self.running.pids[name] for name in _PROCESSES[self.way]}
        done = asyncio.Event()
        checking = asyncio.create_task(check_while(self.target, self.questions, done))
        before = cpu_seconds(pids)
        volley = await self._fire(self._turn(number), plan.callers, plan.requests)
        used = {name: after - before[name] for name, after in cpu_seconds(pids).items()}
        done.set()
        answered = volley.requests + await checking
        for name, seconds in used.items():
            figures.shares[self.way, name].append(seconds / answered)
        figures.cpu[self.way].append(sum(used.values()) / answered)
        figures.rate[self.way].append(volley.rate)

    async def alone(self, number: int, plan: ChainPlan, figures: _Figures) -> None:
        """One caller: the median time of an answer, over a few viewers one after the other."""
        took = [
            (await self._fire([shot], 1, plan.alone // _SENDERS)).latencies
            for shot in self._turn(number)
        ]
        figures.p50[self.way].append(float(np.median(np.concatenate(took))))

    def _turn(self, number: int) -> list[Shot]:
        """Those of a round, so that all get their turn."""
        first = number * _SENDERS
        return [self.shots[(first + place) % len(self.shots)] for place in range(_SENDERS)]

    async def _fire(self, shots: Sequence[Shot], callers: int, requests: int) -> Volley:
        volley = await fire(
            recommend_url(self.target),
            shots,
            self.running.home.root,
            callers=callers,
            requests=requests,
        )
        if volley.wrong:
            raise VireoError(
                f"{volley.wrong} answers of {_SAYS[self.way]} are not those that they must be"
            )
        return volley


def _rows(figures: _Figures) -> list[Row]:
    def over(values: Mapping[str, list[float]], way: str) -> list[float]:
        return [one / floor for one, floor in zip(values[way], values["models"], strict=True)]

    rows = []
    for way in ("direct", "envoy", "inner", "pipelines"):
        says, bound = _SAYS[way], _CPU_BOUNDS.get(way)
        rows.append(
            Row.over_rounds(f"CPU a request, {says} over floor", over(figures.cpu, way), bound)
        )
    for way in ("direct", "envoy", "inner", "pipelines"):
        says, bound = _SAYS[way], _P50_BOUNDS.get(way)
        rows.append(
            Row.over_rounds(f"p50 of 1 caller, {says} over floor", over(figures.p50, way), bound)
        )
    rows.append(Row.over_rounds("CPU a request, floor, ms", _ms(figures.cpu["models"])))
    rows.append(Row.over_rounds("p50 of 1 caller, floor, ms", _ms(figures.p50["models"])))
    for (way, name), used in figures.shares.items():
        rows.append(Row.over_rounds(f"CPU a request, {_SAYS[way]}: {name}, ms", _ms(used)))
    for way, rates in figures.rate.items():
        rows.append(Row.over_rounds(f"answers a second, {_SAYS[way]}", rates))
    return rows


def _ms(seconds: Sequence[float]) -> list[float]:
    return [1000 * value for value in seconds]
