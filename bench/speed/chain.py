"""The cost of a whole chain over the bare one, directly and through Envoy, and beside Ray Serve's.

Every round measures each chain one after the other, so that other load on the machine falls on all
of them alike; ratios are those within a round. Ray Serve, which is never idle, runs only once the
other rounds are done: it takes turns with the chain behind Envoy.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from bench import bare
from bench.process import running
from bench.rows import Figures, Row
from bench.speed.peer import peer_python, serving_chain
from bench.speed.plan import CALLERS, SpeedPlan
from bench.speed.questions import Question, questions_of
from bench.speed.stand import Cost, Served, Stand
from vireo.ops.stack.ports import free_port_base

_DIRECT, _EDGE, _BARE = "Vireo", "Vireo behind Envoy", "the bare chain"
_PODS = ("candidate", "ranking")
_MAX_OVER_BARE = 1.2
_MIN_OVER_PEERS = 1.2
"""Minimum throughput over a peer's chain."""


def chain_rows(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure every chain of a stand, the bare one and that of Ray Serve."""
    questions = questions_of(running.home, running.dataset, plan.viewers)
    with _bare(running, questions) as bare:
        addresses = {
            _BARE: bare,
            _DIRECT: (running.direct, _pids(running, "direct", *_PODS)),
            _EDGE: (running.edge, _pids(running, "envoy", "gateway", *_PODS)),
        }
        chains = asyncio.run(_served(addresses, questions, running.folder))
        rows = asyncio.run(_over_bare(chains, plan, console))
    python = peer_python(running.home)
    if not python.exists():
        console.print("Ray Serve is left out; make its environment with: make bench-peers")
        return rows
    with serving_chain(python, running.release, questions, running.folder) as peer:
        return rows + asyncio.run(_over_peer(chains[-1], peer, plan, console))


def _pids(running: Stand, *names: str) -> dict[str, int]:
    return {name: running.pids[name] for name in names}


@contextmanager
def _bare(stand: Stand, questions: Sequence[Question]) -> Iterator[tuple[str, dict[str, int]]]:
    """Run the bare chain until the block ends; yield host:port and its processes."""
    viewers = {}
    for question in questions:
        viewers[question.viewer_id] = type(question.candidates.viewer)()
        viewers[question.viewer_id].CopyFrom(question.candidates.viewer)
        viewers[question.viewer_id].ClearField("asked_at")
    file = stand.folder / "viewers"
    bare.write_viewers(file, viewers)
    with (
        _bare_server("candidate", stand) as (find, candidate),
        _bare_server("ranking", stand) as (rank, ranking),
        _bare_server("gateway", stand, str(file), find, rank) as (address, gateway),
    ):
        yield address, {"gateway": gateway, "candidate": candidate, "ranking": ranking}


@contextmanager
def _bare_server(role: str, stand: Stand, *upstreams: str) -> Iterator[tuple[str, int]]:
    """Run one process of the bare chain until the block ends; yield host:port and its id."""
    port = free_port_base()

    def listens() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    served = [str(port), str(stand.release), role, *upstreams]
    command = [sys.executable, "-m", bare.__name__, *served]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with running(command, stand.folder / f"bare-{role}.log", listens, environment) as pid:
        yield f"127.0.0.1:{port}", pid


async def _served(
    addresses: Mapping[str, tuple[str, Mapping[str, int]]],
    questions: Sequence[Question],
    folder: Path,
) -> list[Served]:
    return [
        await Served.of(name, address, pids, questions, folder)
        for name, (address, pids) in addresses.items()
    ]


async def _over_bare(chains: Sequence[Served], plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure our chains and the bare one, in turns."""
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        for callers in CALLERS:
            requests = plan.of_round(number).requests_of(callers)
            costs = {each.name: await each.load(number, callers, requests) for each in chains}
            direct, bare = costs[_DIRECT], costs[_BARE]
            over = f"{_DIRECT} over {_BARE}, c={callers}"
            figures.add(f"CPU a slate, {over}", direct.cpu / bare.cpu, _MAX_OVER_BARE)
            if callers == 1:
                figures.add(f"p50, {over}", direct.load.p50 / bare.load.p50, _MAX_OVER_BARE)
            for name, cost in costs.items():
                _add_cost(figures, f"{name}, c={callers}", cost, p50=callers == 1)
    return figures.rows()


async def _over_peer(edge: Served, peer: Served, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure the chain behind Envoy and a peer's, in turns."""
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        for callers in CALLERS:
            requests = plan.of_round(number).requests_of(callers)
            of = f"{peer.name}, c={callers}"
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
