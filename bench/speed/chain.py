"""The cost of a whole chain over the bare one, directly and through Envoy, and beside its peers.

Every round measures each chain one after the other, so that other load on the machine falls on all
of them alike; ratios are those within a round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from rich.console import Console

from bench.speed.asked import PAGE, Question, questions_of
from bench.speed.bare import bare_server, write_viewers_of
from bench.speed.floor import Floor
from bench.speed.peer_chains import PEER_CHAINS, serving_chain
from bench.speed.peers import made
from bench.speed.plan import CALLERS, SpeedPlan
from bench.speed.row import Figures, Row
from bench.speed.served import Cost, Served
from bench.speed.stand import Stand
from server.cores import cores

_DIRECT, _EDGE, _BARE = "Vireo", "Vireo behind Envoy", "the bare chain"
_PODS = ("candidate", "ranking")
_MAX_OVER_BARE = 1.2
_MIN_OVER_PEERS = {"grpcio": 1.2, "native": 1.4}
"""Minimum throughput over a peer's chain, by transport."""
_PIPELINES = "both pipelines in one process over floor"
_MAX_OVER_FLOOR = 1.35


def chain_rows(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure every chain of a stand, the bare one and those of peers, and the pipelines alone."""
    questions = questions_of(running.home, running.dataset, plan.viewers)
    bodies = [question.candidates for question in questions]
    with ExitStack() as servers:
        # One for each core: the chains keep all of them busy, too, and cores share caches.
        floor = servers.enter_context(Floor(running.release, bodies, PAGE, processes=cores()))
        own = {
            _BARE: servers.enter_context(_bare(running, questions)),
            _DIRECT: (running.direct, _pids(running, "direct", *_PODS)),
            _EDGE: (running.edge, _pids(running, "envoy", "gateway", *_PODS)),
        }
        peers = [
            servers.enter_context(
                serving_chain(each, running.home, running.release, questions, running.folder)
            )
            for each in made(PEER_CHAINS, running.home, console)
        ]
        return asyncio.run(_rows(own, peers, questions, running, floor, plan, console))


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
    own: Mapping[str, tuple[str, Mapping[str, int]]],
    peers: Sequence[Served],
    questions: Sequence[Question],
    running: Stand,
    floor: Floor,
    plan: SpeedPlan,
    console: Console,
) -> list[Row]:
    chains = [
        await Served.of(name, address, pids, questions, running.folder)
        for name, (address, pids) in own.items()
    ]
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        amounts = plan.of_round(number)
        for callers in CALLERS:
            requests = amounts.requests_of(callers)
            costs = {
                each.name: await each.load(number, callers, requests) for each in (*chains, *peers)
            }
            _compare(costs, callers, _MIN_OVER_PEERS[running.transport], figures)
        await _over_floor(floor, amounts.requests, figures)
    return figures.rows()


def _compare(
    costs: Mapping[str, Cost], callers: int, min_over_peers: float, figures: Figures
) -> None:
    """Add the figures of each chain with some callers."""
    direct, edge, bare = (costs[name] for name in (_DIRECT, _EDGE, _BARE))
    over = f"{_DIRECT} over {_BARE}, c={callers}"
    figures.add(f"CPU a slate, {over}", direct.cpu / bare.cpu, _MAX_OVER_BARE)
    if callers == 1:
        figures.add(f"p50, {over}", direct.load.p50 / bare.load.p50, _MAX_OVER_BARE)
    for name, cost in costs.items():
        of = f"{name}, c={callers}"
        if name not in (_BARE, _DIRECT, _EDGE):
            over = f"slates a second, {_EDGE} over {of}"
            figures.add(over, edge.load.rate / cost.load.rate, min_over_peers, at_least=True)
        figures.add(f"slates a second, {of}", cost.load.rate)
        figures.add(f"CPU a slate, {of}, ms", 1000 * cost.cpu)
        if len(cost.processes) > 1:
            for process, seconds in cost.processes.items():
                figures.add(f"CPU a slate, {of}: {process}, ms", 1000 * seconds)
        if callers == 1:
            figures.add(f"p50, {of}, ms", 1000 * cost.load.p50)


async def _over_floor(floor: Floor, requests: int, figures: Figures) -> None:
    models = (await floor.timed("models", requests, cores())).cpu
    pipelines = (await floor.timed("pipelines", requests, cores())).cpu
    figures.add(f"CPU a slate, {_PIPELINES}", pipelines / models, _MAX_OVER_FLOOR)
    figures.add("CPU a slate, floor, ms", 1000 * models)
