"""The cost of serving the ranking model over running it, and beside other model servers.

A ranking pod runs alone, on one core, with the load generator on the others. The raw run is the
same gathering, model run and answer in a process on that same core, one request after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import grpc
from rich.console import Console

from bench.process import first_core
from bench.speed.asked import PAGE, Question, questions_of
from bench.speed.floor import Floor, InProcess
from bench.speed.h2load import Prepared, Target
from bench.speed.peers import PEERS, SENDERS, Peer, checked_peer, made, serving
from bench.speed.plan import SpeedPlan
from bench.speed.row import Figures, Row
from bench.speed.stand import further_pod
from bench.stack import own_home, own_stack
from vireo.ops.stack.s3 import embedded_s3
from vireo.server.columns import encode_columns
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.recommend.ranking.pipeline import RankingQuery
from vireo.v1 import candidate_pb2, ranking_pb2, ranking_pb2_grpc

_OWN = "ranking pod"
_MAX_OVER_RAW = 1.25
_CALLERS = 16
"""At saturation; each has one request under way."""
_PATH = "/vireo.v1.RankingService/RankCandidates"


def measure_rank(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure a ranking pod over the raw run of its model, and beside each peer."""
    staged, core = home.trained_release(dataset), first_core()
    settings = {"VIREO_SHEDDING": "false"}
    stack = own_stack(own_home(home, "rank"), staged, settings=settings)
    questions = questions_of(home, dataset, plan.viewers)
    chain = InProcess.load(staged)
    queries = [chain.ranking_query(each.query, PAGE) for each in questions]
    with embedded_s3(stack.settings), further_pod(stack, "ranking", cores=core) as started:
        pod = _checked_pod(started.address, stack.home.root, queries, questions)
        bodies = [question.candidates for question in questions]
        with Floor(staged, bodies, PAGE, cores=core) as raw:
            rows = asyncio.run(_over_raw(raw, pod, plan, console))
        pages = [(query, chain.ranking.rank(query).keys) for query in queries]
        for peers in _turns(home, console):
            with ExitStack() as servers:
                targets: dict[Peer, Target] = {}
                for peer in peers:
                    log = stack.home.logs / f"{peer.name}.log"
                    port = servers.enter_context(serving(peer, home, staged, core, log, queries[0]))
                    targets[peer] = checked_peer(peer, port, pages, stack.home.root)
                never_idle = " and ".join(peer.name for peer in peers if not peer.quiet)
                named = replace(pod, name=f"{_OWN} beside {never_idle}") if never_idle else pod
                rows += asyncio.run(_beside(named, targets, plan, console))
    return rows


def _turns(home: Home, console: Console) -> list[list[Peer]]:
    """Return which peers run at the same time: those that are never idle run by themselves."""
    peers = made(PEERS, home, console)
    return [[peer for peer in peers if peer.quiet], *([peer] for peer in peers if not peer.quiet)]


async def _over_raw(raw: Floor, pod: Target, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure one caller of the pod, and of the model alone."""
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        alone = plan.of_round(number).alone
        model = (await raw.timed("rank", alone)).p50
        over = await pod.p50(number, alone) / model
        figures.add("p50 of 1 caller, ranking pod over the raw run", over, _MAX_OVER_RAW)
        figures.add("p50 of 1 caller, raw run, ms", 1000 * model)
    return figures.rows()


async def _beside(
    pod: Target, peers: Mapping[Peer, Target], plan: SpeedPlan, console: Console
) -> list[Row]:
    """Measure many callers of the pod, and of each peer that runs beside it."""
    figures = Figures(console)
    for number in figures.rounds(plan.rounds):
        requests = plan.of_round(number).requests
        own = (await pod.load(number, _CALLERS, requests)).rate
        figures.add(f"requests a second, {pod.name}", own)
        for peer, target in peers.items():
            theirs = (await target.load(number, _CALLERS, requests)).rate
            over = f"requests a second, {_OWN} over {peer.name}"
            figures.add(over, own / theirs)
            figures.add(f"requests a second, {peer.name}", theirs)
    return figures.rows()


def _checked_pod(
    address: str, folder: Path, queries: Sequence[RankingQuery], questions: Sequence[Question]
) -> Target:
    """Return the pod, after it has answered every question right."""
    prepared = []
    with grpc.insecure_channel(address) as channel:
        stub = ranking_pb2_grpc.RankingServiceStub(channel)
        for number, (query, question) in enumerate(zip(queries, questions, strict=True)):
            request = _message(query, question)
            answer = stub.RankCandidates(request, timeout=10)
            if list(answer.ids) != question.ids:
                raise VireoError(f"the ranking pod gave {answer.ids} instead of {question.ids}")
            body = folder / f"own-{number}"
            prepared.append(Prepared.of(body, request, answer, ("x-request-id: bench",)))
    return Target(_OWN, f"http://{address}{_PATH}", prepared, folder, senders=SENDERS)


def _message(query: RankingQuery, question: Question) -> ranking_pb2.RankCandidatesRequest:
    retrieval = candidate_pb2.RetrieveCandidatesRequest.FromString(question.candidates)
    retrieval.viewer.ClearField("watched_keys")
    return ranking_pb2.RankCandidatesRequest(
        viewer=retrieval.viewer,
        keys=query.keys.tolist(),
        scores=encode_columns(query.scores),
        source_masks=query.source_masks.tolist(),
        page_size=query.page_size,
    )
