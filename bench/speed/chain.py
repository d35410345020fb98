"""The cost of a whole chain over the floor, directly and through Envoy.

Every round measures the floor and each chain one after the other, so that other load on the
machine falls on all of them alike; figures are ratios within a round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from bench.process import cpu_seconds
from bench.speed.asked import PAGE, Question, check_while, checked_target, questions_of
from bench.speed.floor import Floor
from bench.speed.h2load import Target
from bench.speed.plan import SpeedPlan
from bench.speed.row import Figures, Row
from bench.speed.stand import Stand
from server.cores import cores

_CALLERS = 32
_PIPELINES = "both pipelines in one process"


@dataclass(frozen=True)
class Chain:
    """One way to a slate."""

    target: Target
    address: str
    """host:port, to go on asking while it is measured."""
    pids: Mapping[str, int]
    """The processes behind it, by name."""
    max_cpu: float | None = None
    """Bound of its processor time over the floor's."""
    max_p50: float | None = None

    async def measure(
        self,
        number: int,
        questions: Sequence[Question],
        plan: SpeedPlan,
        floor: tuple[float, float],
        figures: Figures,
    ) -> None:
        """Add the figures of a round by its number.

        `floor` is the floor's processor seconds of a request, and its p50 in seconds; `plan` has
        the amounts of this round.
        """
        name = self.target.name
        done = asyncio.Event()
        checking = asyncio.create_task(check_while(self.address, questions, done))
        before = {process: cpu_seconds(pid) for process, pid in self.pids.items()}
        found = await self.target.load(number, _CALLERS, plan.requests)
        used = {process: cpu_seconds(pid) - before[process] for process, pid in self.pids.items()}
        done.set()
        answered = found.requests + await checking
        p50 = await self.target.p50(number, plan.alone)
        cpu = sum(used.values()) / answered
        figures.add(f"CPU a request, {name} over floor", cpu / floor[0], self.max_cpu)
        figures.add(f"p50 of 1 caller, {name} over floor", p50 / floor[1], self.max_p50)
        for process, seconds in used.items():
            figures.add(f"CPU a request, {name}: {process}, ms", 1000 * seconds / answered)
        figures.add(f"answers a second, {name}", found.rate)


def chain_rows(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure every chain of a stand over the floor."""
    questions = questions_of(running.home, running.dataset, plan.viewers)
    bodies = [question.candidates for question in questions]
    # One for each core: the chains keep all of them busy, too, and cores share caches.
    with Floor(running.release, bodies, PAGE, processes=cores()) as floor:
        return asyncio.run(_rows(running, questions, floor, plan, console))


async def _rows(
    running: Stand,
    questions: Sequence[Question],
    models: Floor,
    plan: SpeedPlan,
    console: Console,
) -> list[Row]:
    chains, figures = await _chains(running, questions), Figures(console)
    for number in figures.rounds(plan.rounds):
        amount = plan.of_round(number)
        cpu, p50 = {}, {}
        for way in ("models", "pipelines"):
            cpu[way] = (await models.timed(way, amount.requests, cores())).cpu
            p50[way] = (await models.timed(way, amount.alone)).p50
        floor = cpu["models"], p50["models"]
        for chain in chains:
            await chain.measure(number, questions, amount, floor, figures)
        figures.add(f"CPU a request, {_PIPELINES} over floor", cpu["pipelines"] / floor[0])
        figures.add(f"p50 of 1 caller, {_PIPELINES} over floor", p50["pipelines"] / floor[1])
        figures.add("CPU a request, floor, ms", 1000 * floor[0])
        figures.add("p50 of 1 caller, floor, ms", 1000 * floor[1])
    return figures.rows()


async def _chains(running: Stand, questions: Sequence[Question]) -> list[Chain]:
    """Return each chain of the stand; all of them have answered every question right."""

    async def chain(name: str, address: str, processes: Sequence[str], *bounds: float) -> Chain:
        target = await checked_target(name, address, questions, running.folder)
        return Chain(target, address, {each: running.pids[each] for each in processes}, *bounds)

    pods = ("candidate", "ranking")
    inner, edge = ("gateway", "envoy", *pods), ("envoy", "gateway", *pods)
    return [
        await chain("the chain without Envoy", running.direct, ("direct", *pods), 1.75, 2.2),
        await chain("the chain with Envoy on inner hops", running.gateway, inner),
        await chain("the chain behind Envoy", running.edge, edge, 2.1, 2.8),
    ]
