"""The cost of a whole chain over the bare one, directly and through Envoy, and beside its peers.

Every round measures each chain one after the other, so that other load on the machine falls on all
of them alike; ratios are those within a round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console

from bench.speed.asked import PAGE, Question, questions_of
from bench.speed.bare import bare_server, write_viewers_of
from bench.speed.floor import Floor
from bench.speed.plan import CALLERS, SpeedPlan
from bench.speed.row import Figures, Row
from bench.speed.served import Served
from bench.speed.stand import Stand
from server.cores import cores

_DIRECT, _EDGE, _BARE = "Vireo", "Vireo behind Envoy", "the bare chain"
_PODS = ("candidate", "ranking")
_MAX_OVER_BARE = 1.2
_PIPELINES = "both pipelines in one process over floor"
_MAX_OVER_FLOOR = 1.35


def chain_rows(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure every chain of a stand, the bare chain, and the pipelines over the floor."""
    questions = questions_of(running.home, running.dataset, plan.viewers)
    bodies = [question.candidates for question in questions]
    # One for each core: the chains keep all of them busy, too, and cores share caches.
    floor = Floor(running.release, bodies, PAGE, processes=cores())
    with floor, _bare(running, questions) as (address, pids):
        processes = {
            _BARE: (address, pids),
            _DIRECT: (running.direct, _pids(running, "direct", *_PODS)),
            _EDGE: (running.edge, _pids(running, "envoy", "gateway", *_PODS)),
        }
        return asyncio.run(_rows(processes, questions, running, floor, plan, console))


def _pids(running: Stand, *names: str) -> dict[str, int]:
    return {name: running.pids[name] for name in names}


@contextmanager
def _bare(running: Stand, questions: Sequence[Question]) -> Iterator[tuple[str, dict[str, int]]]:
    """Run the bare chain until the block ends; yield host:port and its processes."""
    viewers = write_viewers_of(questions, running.folder / "viewers")
    place = running.release, running.folder, running.transport
    with (
        bare_server("candidate", *place) as (find, candidate),
        bare_server("ranking", *place) as (rank, ranking),
        bare_server("gateway", *place, viewers, find, rank) as (address, gateway),
    ):
        yield address, {"gateway": gateway, "candidate": candidate, "ranking": ranking}


async def _rows(
    processes: Mapping[str, tuple[str, Mapping[str, int]]],
    questions: Sequence[Question],
    running: Stand,
    floor: Floor,
    plan: SpeedPlan,
    console: Console,
) -> list[Row]:
    chains = [
        await Served.of(name, address, pids, questions, running.folder)
        for name, (address, pids) in processes.items()
    ]
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        amounts = plan.of_round(number)
        for callers in CALLERS:
            await _turn(chains, number, callers, amounts.requests_of(callers), figures)
        await _over_floor(floor, amounts.requests, figures)
    return figures.rows()


async def _turn(
    chains: Sequence[Served], number: int, callers: int, requests: int, figures: Figures
) -> None:
    """Add the figures of some callers of each chain, one after the other."""
    costs = {each.name: await each.load(number, callers, requests) for each in chains}
    bare = costs[_BARE]
    over = f"{_DIRECT} over {_BARE}, c={callers}"
    figures.add(f"CPU a slate, {over}", costs[_DIRECT].cpu / bare.cpu, _MAX_OVER_BARE)
    if callers == 1:
        figures.add(f"p50, {over}", costs[_DIRECT].load.p50 / bare.load.p50, _MAX_OVER_BARE)
        for name, cost in costs.items():
            figures.add(f"p50, {name}, c=1, ms", 1000 * cost.load.p50)
    for name, cost in costs.items():
        of = f"{name}, c={callers}"
        figures.add(f"CPU a slate, {of}, ms", 1000 * cost.cpu)
        for process, seconds in cost.processes.items():
            figures.add(f"CPU a slate, {of}: {process}, ms", 1000 * seconds)
        figures.add(f"slates a second, {of}", cost.load.rate)


async def _over_floor(floor: Floor, requests: int, figures: Figures) -> None:
    models = (await floor.timed("models", requests, cores())).cpu
    pipelines = (await floor.timed("pipelines", requests, cores())).cpu
    figures.add(f"CPU a slate, {_PIPELINES}", pipelines / models, _MAX_OVER_FLOOR)
    figures.add("CPU a slate, floor, ms", 1000 * models)
