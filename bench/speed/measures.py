"""The cost of a slate over that of a bare chain and beside Ray Serve's, its tail, and pods.

Every round measures each chain one after the other, so that other load on the machine falls on all
of them alike; ratios are those within a round. Ray Serve, which is never idle, runs only once the
other rounds are done: it takes turns with the chain behind Envoy.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from bench import bare
from bench.rows import Figures, Row
from bench.speed.h2load import Prepared, Target
from bench.speed.search import measure_search
from bench.speed.stand import Chain, Cost, Question, SpeedPlan, Stand, questions_of, stand, together
from bench.stack import PATIENCE, cpu_seconds, memory_of, shared_memory
from vireo.ops.stack.ports import free_port_base, temporary_server
from vireo.ops.stack.settings import PodKind
from vireo.ops.stack.state import Layout
from vireo.server.home import Home

CALLERS = (1, 8, 32)
"""Numbers of callers that chains are measured with: alone, busy, saturated."""
_DIRECT, _EDGE, _BARE, _PEER = "Vireo", "Vireo behind Envoy", "the bare chain", "Ray Serve's chain"
_TOGETHER_EDGE = "Vireo together behind Envoy"
_PODS = ("candidate", "ranking")
_TOGETHER = "Vireo together"
_WHOLE, _REPLICA = "the bare process", "Ray Serve's one replica"
_MAX_OVER_BARE = 1.25
_MAX_OVER_WHOLE = 1.2
_MIN_OVER_PEER: Mapping[str, Mapping[int, float]] = {
    _EDGE: {1: 0.8, 8: 0.85, 32: 0.85},
    _TOGETHER_EDGE: {1: 1.45, 8: 1.65, 32: 1.55},
}
"""Minimum throughput over Ray Serve's chain, by chain and callers."""
_MAX_OVER_REPLICA = 2.3
"""Maximum p50 of one caller over a single replica of Ray Serve, in which nothing is sent twice."""
_CHECKOUT = Path(__file__).parents[2]
_JSON = "content-type: application/json"
_ASK_SECONDS = 10.0

_MAX_TAIL = 4.0
_TAIL_CALLERS = 8
_SHARE = 0.6
"""Share of the rate that these callers sustain in a closed loop."""
_MAX_START_SECONDS = 3.0
_MAX_MEGABYTES: Mapping[PodKind, float] = {"candidate": 500.0, "ranking": 600.0, "slate": 450.0}
_MAX_IDLE_SHARE = 0.02
_MAX_STACK_START_SECONDS = 10.0
_MAX_STACK_MEGABYTES: Mapping[Layout, float] = {"separate": 1540.0, "together": 1400.0}


def measure(
    home: Home, dataset: str, plan: SpeedPlan, console: Console, names: Sequence[str]
) -> Iterator[Row]:
    """Yield the rows of MEASURES over the newest release of a data set; they share a stack.

    Raises:
        VireoError: nothing was trained, something does not start, or an answer is wrong.
    """
    with ExitStack() as stands:
        stood: Stand | None = None
        for name in names:
            console.print(f"measuring {name}")
            if name == "search":
                rows = measure_search(home, dataset, plan, console)
            else:
                stood = stood or stands.enter_context(stand(home, dataset))
                rows = MEASURES[name](stood, plan, console)
            yield from (replace(row, section=name) for row in rows)


def _chain_rows(stood: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure the chains of a stand, one of slate pods, the bare ones and those of Ray Serve."""
    questions = questions_of(stood.home, stood.dataset, plan.viewers)
    with together(stood, questions) as slates:
        with _bare_chains(stood, questions) as bare_ones:
            edge = stood.stack.settings.edge
            ours = [
                stood.chain(_DIRECT, stood.direct, ("direct", *_PODS), questions),
                stood.chain(_TOGETHER, stood.slate, ("slate",), questions),
                stood.chain(_EDGE, edge, ("envoy", "gateway", *_PODS), questions),
                slates,
            ]
            rows = asyncio.run(_over_bare([*bare_ones, *ours], plan, console))
        python = stood.home.root / "peers" / "rayserve" / "bin" / "python"
        if not python.exists():
            console.print("Ray Serve is left out; make its environment with: make bench-peers")
            return rows
        for name in (_PEER, _REPLICA):
            with _peer_chain(name, python, stood, questions) as peer:
                rows += asyncio.run(_over_peer(ours[-2:], peer, plan, console))
    return rows


@contextmanager
def _bare_chains(stood: Stand, questions: Sequence[Question]) -> Iterator[list[Chain]]:
    """Run the bare chain and the bare process until the block ends."""
    file = stood.folder / "viewers"
    bare.write_viewers(file, {each.viewer_id: each.viewer for each in questions})
    with (
        _bare_server("candidate", stood) as (find, candidate),
        _bare_server("ranking", stood) as (rank, ranking),
        _bare_server("gateway", stood, str(file), find, rank) as (address, gateway),
        _bare_server("whole", stood, str(file)) as (whole, pid),
    ):
        pids = {"gateway": gateway, "candidate": candidate, "ranking": ranking}
        yield [
            Chain.of(_BARE, address, pids, questions, stood.folder),
            Chain.of(_WHOLE, whole, {"whole": pid}, questions, stood.folder),
        ]


@contextmanager
def _bare_server(role: str, stood: Stand, *upstreams: str) -> Iterator[tuple[str, int]]:
    """Run one process of the bare chain until the block ends; yield host:port and its id."""
    port = free_port_base()

    def problem() -> str:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return ""
        return f"the bare {role} does not listen yet"

    served = [str(port), str(stood.release), role, *upstreams]
    command = [sys.executable, "-m", bare.__name__, *served]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = stood.folder / f"bare-{role}.log"
    with temporary_server(command, log, problem, environment, start_seconds=PATIENCE) as pid:
        yield f"127.0.0.1:{port}", pid


async def _over_bare(chains: Sequence[Chain], plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure our chains and the bare ones, in turns."""
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        for callers in CALLERS:
            requests = plan.of_round(number).requests_of(callers)
            costs = {each.name: await each.load(number, callers, requests) for each in chains}
            for name, bare_name, bound in (
                (_DIRECT, _BARE, _MAX_OVER_BARE),
                (_TOGETHER, _WHOLE, _MAX_OVER_WHOLE),
            ):
                own, floor = costs[name], costs[bare_name]
                over = f"{name} over {bare_name}, c={callers}"
                figures.add(f"CPU a slate, {over}", own.cpu / floor.cpu, bound)
                if callers == 1:
                    figures.add(f"p50, {over}", own.load.p50 / floor.load.p50, bound)
            for name, cost in costs.items():
                _add_cost(figures, name, callers, cost)
    return figures.rows()


async def _over_peer(
    edges: Sequence[Chain], peer: Chain, plan: SpeedPlan, console: Console
) -> list[Row]:
    """Measure our chains behind Envoy and a peer's, in turns."""
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        for callers in CALLERS:
            requests = plan.of_round(number).requests_of(callers)
            theirs = await peer.load(number, callers, requests)
            of = f"{peer.name}, c={callers}"
            for edge in edges:
                own, name = await edge.load(number, callers, requests), edge.name
                ratio = own.load.rate / theirs.load.rate
                bound = _MIN_OVER_PEER[name][callers] if peer.name == _PEER else None
                figures.add(f"slates a second, {name} over {of}", ratio, bound, at_least=True)
                figures.add(f"slates a second, {name} beside {of}", own.load.rate)
                if callers == 1 and (name, peer.name) == (_TOGETHER_EDGE, _REPLICA):
                    slower = own.load.p50 / theirs.load.p50
                    figures.add(f"p50, {name} over {of}", slower, _MAX_OVER_REPLICA)
            _add_cost(figures, peer.name, callers, theirs)
    return figures.rows()


def _add_cost(figures: Figures, name: str, callers: int, cost: Cost) -> None:
    """Add the figures of one chain: throughput, processor time, and one caller's latency."""
    of = f"{name}, c={callers}"
    figures.add(f"slates a second, {of}", cost.load.rate)
    figures.add(f"CPU a slate, {of}, ms", 1000 * cost.cpu)
    if len(cost.processes) > 1:
        for process, seconds in cost.processes.items():
            figures.add(f"CPU a slate, {of}: {process}, ms", 1000 * seconds)
    if callers == 1:
        figures.add(f"p50, {of}, ms", 1000 * cost.load.p50)


@contextmanager
def _peer_chain(
    name: str, python: Path, stood: Stand, questions: Sequence[Question]
) -> Iterator[Chain]:
    """Run a chain of Ray Serve until the block ends; yield it once it answers all right."""
    folder, port = stood.folder, free_port_base()
    viewers = folder / "peer-viewers"
    viewers.write_bytes(pickle.dumps({each.viewer_id: each.decoded for each in questions}))

    def body(question: Question) -> bytes:
        asked = question.request
        fields = {"viewer_id": asked.viewer_id, "page_size": asked.page_size}
        return json.dumps({**fields, "time": asked.context.time.seconds}).encode()

    def ask(question: Question) -> bytes:
        headers = dict([_JSON.split(": ")])
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", body(question), headers)
        with urllib.request.urlopen(request, timeout=_ASK_SECONDS) as response:  # noqa: S310
            content: bytes = response.read()
        answer = json.loads(content)
        question.check(answer["ids"], answer["scores"])
        return content

    def problem() -> str:
        with suppress(OSError):  # it may listen before its models are loaded
            ask(questions[0])
            return ""
        return "Ray Serve does not answer yet"

    module = "bench.peers.rayserve_chain"
    command = [str(python), "-m", module, str(port), str(stood.release), str(viewers)]
    command += ["one"] * (name == _REPLICA)
    environment = {**os.environ, "PYTHONPATH": str(_CHECKOUT), "OMP_NUM_THREADS": "1"}
    log = folder / "rayserve-chain.log"
    with temporary_server(command, log, problem, environment, start_seconds=PATIENCE) as pid:
        prepared = []
        for number, question in enumerate(questions):
            file = folder / f"peer-{number}.json"
            file.write_bytes(body(question))
            prepared.append(Prepared(file, len(ask(question)), (_JSON,)))
        target = Target(name, f"http://127.0.0.1:{port}/", prepared, folder, http2=False)
        yield Chain(target, {"all": pid})


def _tail_rows(stood: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure p99 over p50 behind Envoy at a sustained load."""
    return asyncio.run(_tail(stood.edge(plan.viewers), plan, console))


async def _tail(edge: Target, plan: SpeedPlan, console: Console) -> list[Row]:
    figures = Figures(console)
    load = f"{_TAIL_CALLERS} callers at {_SHARE:.0%} of the sustained rate"
    for number in figures.rounds(plan.rounds):
        requests = plan.of_round(number).requests
        sustained = (await edge.load(number, _TAIL_CALLERS, requests // 4)).rate
        found = await edge.load(number, _TAIL_CALLERS, requests, _SHARE * sustained, max_wrong=1.0)
        p50, p99 = np.percentile(found.latencies, [50, 99]).tolist()
        figures.add(f"p99 over p50, {load}", p99 / p50, _MAX_TAIL)
        # Other load on the cores can make answers late beyond all limits.
        figures.add(f"share of wrong answers, {load}", found.wrong / found.requests, 0.0)
        figures.add(f"p50, {load}, ms", 1000 * p50)
        figures.add(f"p99, {load}, ms", 1000 * p99)
        figures.add(f"sustained rate of {_TAIL_CALLERS} callers, answers a second", sustained)
    return figures.rows()


def _pods_rows(stood: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure the memory of pods, and the start of others like them from a warm cache."""
    stood.edge(plan.sample)
    figures = Figures(console)
    for _ in figures.rounds(plan.rounds):
        for kind in _MAX_MEGABYTES:
            begun = time.monotonic()
            with stood.stack.further_pod(kind, number=2):  # beside those of the stand
                took = time.monotonic() - begun
            figures.add(f"start of a {kind} pod to SERVING, s", took, _MAX_START_SECONDS)
    memory = {kind: memory_of(stood.pids[kind], stood.stack.home.cache) for kind in _MAX_MEGABYTES}
    return figures.rows() + [
        Row(f"memory of a {kind} pod, MB", memory[kind], bound=bound)
        for kind, bound in _MAX_MEGABYTES.items()
    ]


def _idle_rows(stood: Stand, plan: SpeedPlan, _: Console) -> list[Row]:
    """Measure stacks of which nobody asks anything: their start, memory and processor time."""
    rows = []
    for layout, most in _MAX_STACK_MEGABYTES.items():
        another = stood.another(layout)
        with another.running():
            pass  # from now on the release is in the cache
        begun = time.monotonic()
        with another.running() as stack:
            took = time.monotonic() - begun
            state = stack.state()
            pids = [state.pid, *(each.pid for each in state.processes if each.pid)]
            used = cpu_seconds(state.pid)  # which has started the others
            time.sleep(plan.rest)
            share = (cpu_seconds(state.pid) - used) / plan.rest
            of = f"an idle stack, {layout}"
            rows += [
                Row(f"share of a core, {of}", share, bound=_MAX_IDLE_SHARE),
                Row(f"memory of {of}, MB", shared_memory(pids), bound=most),
                Row(f"start of {of}, from a warm cache, s", took, bound=_MAX_STACK_START_SECONDS),
            ]
    return rows


MEASURES: Mapping[str, Callable[[Stand, SpeedPlan, Console], list[Row]]] = {
    "chain": _chain_rows,
    "tail": _tail_rows,
    "pods": _pods_rows,
    "idle": _idle_rows,
}
"""What is measured on a stand, by name."""
