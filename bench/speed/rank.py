"""What serving the ranking model costs over running it, and beside other model servers.

    vireo bench rank

A ranking pod alone, on one core, with the load generator on the others. The raw run is the same
model, gather and answer in a process of its own on that same core, one request after the other.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
from rich.console import Console
from vireo.v1 import candidate_pb2, ranking_pb2, ranking_pb2_grpc

from bench.speed.asked import PAGE, Asked, asked, first_viewers, prepared
from bench.speed.cpu import first_core, pin
from bench.speed.floor import FloorProcess, InProcess
from bench.speed.h2load import Shot, Volley, fire
from bench.speed.peers import PEERS, Peer, serving, shot
from bench.speed.row import Row
from bench.stack import free_port_base
from server import ranking
from server.candidate.service import decode
from server.errors import VireoError
from server.home import Home
from server.ranking.pipeline import RankingQuery
from server.ranking.service import NAME
from server.releases.store import ReleaseStore
from server.rpc.health import health_problem
from server.stack.s3 import embedded_s3
from server.stack.settings import StackSettings

_OWN = "ranking pod"
_RAW_BOUND = 1.25
_PATH = "/vireo.v1.RankingService/RankCandidates"
_HEADERS = ("content-type: application/grpc", "te: trailers", "x-request-id: bench")
_SENDERS = 4
_CHANNEL = "production"
_START_SECONDS = 240.0


@dataclass(frozen=True)
class RankPlan:
    """How much to do."""

    rounds: int = 5
    requests: int = 800
    """Of each server in each round at saturation."""
    alone: int = 200
    """Of the pod and the raw run in each round with one caller."""
    callers: int = 16
    """At saturation; each has one request under way."""
    viewers: int = 20
    peers: bool = True
    """Whether peers take part; those whose environment isn't made are left out and told."""


def measure_rank(home: Home, dataset: str, plan: RankPlan, console: Console) -> list[Row]:
    """Runs the whole measurement.

    Raises:
        VireoError: nothing was trained, a server does not start, or an answer is wrong.
    """
    own = Home(home.root / "bench" / "rank")
    staged = home.trained_release(dataset)
    shutil.rmtree(own.root, ignore_errors=True)
    own.logs.mkdir(parents=True)
    viewers = first_viewers(home, dataset, plan.viewers)
    questions = asked(staged, home.features(dataset), viewers)
    core = first_core()
    chain = InProcess.load(staged)
    parse = candidate_pb2.RetrieveCandidatesRequest.FromString
    queries = [chain.ranking_query(decode(parse(each.candidates)), PAGE) for each in questions]
    with _pod(own, staged, core) as port:
        pod = _pod_target(own.root, port, queries, questions)
        bodies = [question.candidates for question in questions]
        with FloorProcess(staged, bodies, PAGE, core) as raw:
            rows = asyncio.run(_over_raw(raw, pod, own.root, plan, console))
        for peers in _turns(home, plan, console):
            with ExitStack() as servers:
                ports = {
                    peer: servers.enter_context(
                        serving(peer, home, staged, core, own.logs / f"{peer.name}.log")
                    )
                    for peer in peers
                }
                theirs = _peer_targets(own.root, chain, queries, ports)
                never_idle = " and ".join(peer.name for peer in peers if not peer.quiet)
                named = replace(pod, name=f"{_OWN} beside {never_idle}") if never_idle else pod
                rows += asyncio.run(_beside(named, theirs, own.root, plan, console))
    return rows


def _turns(home: Home, plan: RankPlan, console: Console) -> list[list[Peer]]:
    """Which peers run at the same time: those that are never idle would take from the others."""
    if not plan.peers:
        return [[]]
    made = [peer for peer in PEERS if peer.python(home).exists()]
    for peer in PEERS:
        if peer not in made:
            console.print(f"{peer.name} is left out; make its environment with: make bench-peers")
    return [[peer for peer in made if peer.quiet], *([peer] for peer in made if not peer.quiet)]


@dataclass(frozen=True)
class _Target:
    """A server, and the requests for it."""

    name: str
    url: str
    shots: Sequence[Shot]
    bound: float | None = None
    http2: bool = True


def _pod_target(
    folder: Path, port: int, queries: Sequence[RankingQuery], questions: Sequence[Asked]
) -> _Target:
    """The pod; every question has been asked and answered right."""
    shots = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = ranking_pb2_grpc.RankingServiceStub(channel)
        for number, (query, question) in enumerate(zip(queries, questions, strict=True)):
            request = _message(query, question)
            answer = stub.RankCandidates(request, timeout=10)
            if list(answer.ids) != question.ids:
                raise VireoError(f"the ranking pod gave {answer.ids} instead of {question.ids}")
            shots.append(prepared(folder / f"own-{number}", request, answer, _HEADERS))
    return _Target(_OWN, f"http://127.0.0.1:{port}{_PATH}", shots)


def _peer_targets(
    folder: Path, chain: InProcess, queries: Sequence[RankingQuery], ports: Mapping[Peer, int]
) -> list[_Target]:
    """The peers; every one has answered every question right."""
    targets = []
    for peer, at in ports.items():
        theirs = [
            shot(peer, at, query, chain.ranking.rank(query).keys, folder / f"{peer.name}-{number}")
            for number, query in enumerate(queries)
        ]
        url = f"http://127.0.0.1:{at}{peer.question(queries[0]).path}"
        targets.append(_Target(peer.name, url, theirs, peer.bound, peer.http2))
    return targets


def _message(query: RankingQuery, question: Asked) -> ranking_pb2.RankCandidatesRequest:
    retrieval = candidate_pb2.RetrieveCandidatesRequest.FromString(question.candidates)
    retrieval.viewer.ClearField("watched_keys")
    return ranking_pb2.RankCandidatesRequest(
        viewer=retrieval.viewer,
        keys=query.keys.tolist(),
        scores=query.scores["two_tower"].tolist(),
        co_watch_scores=query.scores["co_watch"].tolist(),
        ease_scores=query.scores["ease"].tolist(),
        source_masks=query.source_masks.tolist(),
        page_size=query.page_size,
    )


async def _over_raw(
    raw: FloorProcess, pod: _Target, folder: Path, plan: RankPlan, console: Console
) -> list[Row]:
    """One caller of the pod, and of the model alone."""
    raw_p50, pod_p50 = [], []
    for number in range(plan.rounds + 1):
        alone = plan.alone if number else _SENDERS
        raw.begin("rank", alone)
        timing = await asyncio.to_thread(raw.result)
        took = [
            (await _fire(pod, [number * _SENDERS + place], folder, 1, alone // _SENDERS)).latencies
            for place in range(_SENDERS)
        ]
        if number:  # the first round is for what is slow only once
            raw_p50.append(timing.p50)
            pod_p50.append(float(np.median(np.concatenate(took))))
            console.print(f"round {number} of {plan.rounds} done")
    over = [one / other for one, other in zip(pod_p50, raw_p50, strict=True)]
    return [
        Row.over_rounds("p50 of 1 caller, ranking pod over the raw run", over, _RAW_BOUND),
        Row.over_rounds("p50 of 1 caller, raw run, ms", [1000 * each for each in raw_p50]),
    ]


async def _beside(
    pod: _Target, peers: Sequence[_Target], folder: Path, plan: RankPlan, console: Console
) -> list[Row]:
    """Many callers of the pod, and of each peer that runs beside it."""
    rates: dict[str, list[float]] = defaultdict(list)
    for number in range(plan.rounds + 1):
        first = number * _SENDERS
        requests = plan.requests if number else 4 * plan.callers
        for target in (pod, *peers):
            turn = range(first, first + _SENDERS)
            volley = await _fire(target, turn, folder, plan.callers, requests)
            if number:
                rates[target.name].append(volley.rate)
        if number:
            console.print(f"round {number} of {plan.rounds} done")
    rows = []
    for peer in peers:
        ratios = [a / b for a, b in zip(rates[pod.name], rates[peer.name], strict=True)]
        measure = f"requests a second, ranking pod over {peer.name}"
        rows.append(Row.over_rounds(measure, ratios, peer.bound, at_least=True))
    for name, found in rates.items():
        rows.append(Row.over_rounds(f"requests a second, {name}", found))
    return rows


async def _fire(
    target: _Target, places: Iterable[int], folder: Path, callers: int, requests: int
) -> Volley:
    volley = await fire(
        target.url,
        [target.shots[place % len(target.shots)] for place in places],
        folder,
        callers=callers,
        requests=requests,
        http2=target.http2,
    )
    if volley.wrong:
        raise VireoError(f"{volley.wrong} answers of {target.name} are wrong")
    return volley


@contextmanager
def _pod(own: Home, staged: Path, cores: Sequence[int]) -> Iterator[int]:
    """The port of a ranking pod that serves a release on some cores until the block ends."""
    base = free_port_base()
    settings = StackSettings(home=own.root, port_base=base, edge_port=base + 3)
    port = settings.ranking_pod_port
    log = own.logs / "ranking.log"
    with embedded_s3(settings) as server, log.open("w") as output:
        store = ReleaseStore(server)
        release_id = store.publish(staged).release_id
        store.set_channel(_CHANNEL, release_id, store.read_channel(_CHANNEL))
        process = subprocess.Popen(
            [sys.executable, "-m", ranking.__name__],
            env={
                **{name: text for name, text in os.environ.items() if name[:6] != "VIREO_"},
                **server.environment(),
                "VIREO_HOME": str(own.root),
                "VIREO_PORT": str(port),
                "VIREO_SHEDDING": "false",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: pin(cores),
        )
        try:
            until = time.monotonic() + _START_SECONDS
            while asyncio.run(health_problem(f"127.0.0.1:{port}", NAME, 2.0)):
                if process.poll() is not None or time.monotonic() > until:
                    raise VireoError(f"the ranking pod did not start; see {log}")
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()
            process.wait()
