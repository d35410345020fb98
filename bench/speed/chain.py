"""The cost of a whole chain over the bare one, directly and through Envoy, and beside its peers.

Every round measures each chain one after the other, so that other load on the machine falls on all
of them alike; ratios are those within a round. A peer, which may never be idle, runs only once the
other rounds are done: it takes turns with the chain behind Envoy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

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
from vireo.server.cores import cores

_DIRECT, _EDGE, _BARE = "Vireo", "Vireo behind Envoy", "the bare chain"
_PODS = ("candidate", "ranking")
_MAX_OVER_BARE = 1.2
_MIN_OVER_PEERS = 1.2
"""Minimum throughput over a peer's chain."""
_PIPELINES = "both pipelines in one process over floor"
_MAX_OVER_FLOOR = 1.35


def chain_rows(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure every chain of a stand, the bare one and those of peers, and the pipelines alone."""
    questions = questions_of(running.home, running.dataset, plan.viewers)
    bodies = [question.candidates for question in questions]
    with (
        # One for each core: the chains keep all of them busy, too, and cores share caches.
        Floor(running.release, bodies, PAGE, processes=cores()) as floor,
        _bare(running, questions) as bare,
    ):
        addresses = {
            _BARE: bare,
            _DIRECT: (running.direct, _pids(running, "direct", *_PODS)),
            _EDGE: (running.edge, _pids(running, "envoy", "gateway", *_PODS)),
        }
        chains = asyncio.run(_served(addresses, questions, running.folder))
        rows = asyncio.run(_over_bare(chains, floor, plan, console))
    edge = chains[-1]
    for each in made(PEER_CHAINS, running.home, console):
        home, release, folder = running.home, running.release, running.folder
        with serving_chain(each, home, release, questions, folder) as peer:
            rows += asyncio.run(_over_peer(edge, peer, plan, console))
    return rows


def _pids(running: Stand, *names: str) -> dict[str, int]:
    return {name: running.pids[name] for name in names}


@contextmanager
def _bare(running: Stand, questions: Sequence[Question]) -> Iterator[tuple[str, dict[str, int]]]:
    """Run the bare chain until the block ends; yield host:port and its processes."""
    viewers = write_viewers_of(questions, running.folder / "viewers")
    place = running.release, running.folder
    with (
        bare_server("candidate", *place) as (find, candidate),
        bare_server("ranking", *place) as (rank, ranking),
        bare_server("gateway", *place, viewers, find, rank) as (address, gateway),
    ):
        yield address, {"gateway": gateway, "candidate": candidate, "ranking": ranking}


async def _served(
    addresses: Mapping[str, tuple[str, Mapping[str, int]]],
    questions: Sequence[Question],
    folder: Path,
) -> list[Served]:
    return [
        await Served.of(name, address, pids, questions, folder)
        for name, (address, pids) in addresses.items()
    ]


async def _over_bare(
    chains: Sequence[Served], floor: Floor, plan: SpeedPlan, console: Console
) -> list[Row]:
    """Measure our chains and the bare one, in turns, and the pipelines."""
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        amounts = plan.of_round(number)
        for callers in CALLERS:
            requests = amounts.requests_of(callers)
            costs = {each.name: await each.load(number, callers, requests) for each in chains}
            direct, bare = costs[_DIRECT], costs[_BARE]
            over = f"{_DIRECT} over {_BARE}, c={callers}"
            figures.add(f"CPU a slate, {over}", direct.cpu / bare.cpu, _MAX_OVER_BARE)
            if callers == 1:
                figures.add(f"p50, {over}", direct.load.p50 / bare.load.p50, _MAX_OVER_BARE)
            for name, cost in costs.items():
                _add_cost(figures, f"{name}, c={callers}", cost, p50=callers == 1)
        await _over_floor(floor, amounts.requests, figures)
    return figures.rows()


async def _over_peer(edge: Served, peer: Served, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure the chain behind Envoy and a peer's, in turns."""
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        amounts = plan.of_round(number)
        for callers in CALLERS:
            requests, of = amounts.requests_of(callers), f"{peer.name}, c={callers}"
            own = await edge.load(number, callers, requests)
            theirs = await peer.load(number, callers, requests)
            over = f"slates a second, {_EDGE} over {of}"
            figures.add(over, own.load.rate / theirs.load.rate, _MIN_OVER_PEERS, at_least=True)
            figures.add(f"slates a second, {_EDGE} beside {of}", own.load.rate)
            _add_cost(figures, of, theirs, p50=callers == 1)
    return figures.rows()


def _add_cost(figures: Figures, of: str, cost: Cost, *, p50: bool) -> None:
    """Add the figures of one chain: throughput, processor time, and the median latency."""
    figures.add(f"slates a second, {of}", cost.load.rate)
    figures.add(f"CPU a slate, {of}, ms", 1000 * cost.cpu)
    if len(cost.processes) > 1:
        for process, seconds in cost.processes.items():
            figures.add(f"CPU a slate, {of}: {process}, ms", 1000 * seconds)
    if p50:
        figures.add(f"p50, {of}, ms", 1000 * cost.load.p50)


async def _over_floor(floor: Floor, requests: int, figures: Figures) -> None:
    models = (await floor.timed("models", requests, cores())).cpu
    pipelines = (await floor.timed("pipelines", requests, cores())).cpu
    figures.add(f"CPU a slate, {_PIPELINES}", pipelines / models, _MAX_OVER_FLOOR)
    figures.add("CPU a slate, floor, ms", 1000 * models)
