"""What pods of a release take: how long until they serve, and how much memory.

    vireo bench pods

They start from a warm cache, as pods do that are started again. A pod's memory is what it has
resident, and every page of the release's files that it has mapped but not read yet. Files and
libraries are in memory once for all processes of a machine: a second worker process of the same pod
adds only what no file backs, its own and its supervisor's, which a pod of one process doesn't have.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import grpc
import psutil
from rich.console import Console
from vireo.v1 import candidate_pb2, candidate_pb2_grpc, ranking_pb2, ranking_pb2_grpc

from bench.speed.another_pod import AnotherPod, another_pod
from bench.speed.asked import PAGE, Asked, checked_shots
from bench.speed.row import Row
from bench.speed.stand import Stand, stand
from server.control.mesh import GRPC_SERVICES
from server.errors import VireoError
from server.home import Home
from server.rpc.health import health_problem

_START_SECONDS = 3.0
_MEGABYTES = {"candidate": 500.0, "ranking": 600.0}
_OWN_MEGABYTES = 150.0
_SECOND_SECONDS = 240.0
_CALL_SECONDS = 10.0

Inner: TypeAlias = Literal["candidate", "ranking"]


@dataclass(frozen=True)
class PodsPlan:
    """How much to do."""

    rounds: int = 3
    viewers: int = 200
    """Who are asked for before memory is looked at."""


@dataclass(frozen=True)
class Memory:
    """Of one process, in megabytes of 1,000,000 bytes."""

    whole: float
    """Resident, with the whole of the release's files."""
    own: float
    """What no file backs."""


def measure_pods(home: Home, dataset: str, plan: PodsPlan, console: Console) -> list[Row]:
    """Serves the newest release that was trained on a data set and looks at its pods.

    Raises:
        VireoError: nothing was trained, a pod does not start, or an answer is wrong.
    """
    with stand(home, dataset, "pods", direct=False) as running:
        questions = running.questions(plan.viewers)
        asyncio.run(checked_shots(running.edge, questions, running.home.root))
        rows = []
        for service in ("candidate", "ranking"):
            rows += _rows(running, service, plan, questions)
            console.print(f"{service} done")
        return rows


def _rows(running: Stand, service: Inner, plan: PodsPlan, questions: Sequence[Asked]) -> list[Row]:
    memory = memory_of(running.pids[service], running.home.cache)
    like, logs = running.pods[f"{service}-1"], running.home.logs
    starts = []
    for _ in range(plan.rounds):
        with another_pod(like, service, running.environment, logs) as pod:
            starts.append(pod.started)
    two = {**running.environment, "VIREO_WORKERS": "2"}
    with another_pod(like, service, two, logs) as pod:
        added = asyncio.run(_added(running, service, pod, questions))
    return [
        Row.over_rounds(f"start of a {service} pod to SERVING, s", starts, _START_SECONDS),
        Row(f"memory of a {service} pod, MB", memory.whole, bound=_MEGABYTES[service]),
        Row(
            f"memory that a second worker process of a {service} pod adds, MB",
            added,
            bound=_OWN_MEGABYTES,
        ),
    ]


async def _added(
    running: Stand, service: Inner, pod: AnotherPod, questions: Sequence[Asked]
) -> float:
    """Megabytes that a pod of two worker processes has beyond one of a single process.

    The second worker process has been asked the questions before.
    """
    host, _, port = pod.address.partition(":")
    second = f"{host}:{int(port) + 2}"
    end = time.monotonic() + _SECOND_SECONDS
    while problem := await health_problem(second, GRPC_SERVICES[service], 2.0):
        if time.monotonic() > end:
            raise VireoError(f"the second worker process of a {service} pod: {problem}")
        await asyncio.sleep(0.1)
    retrievals = candidate_pb2.RetrieveCandidatesRequest.FromString
    async with (
        grpc.aio.insecure_channel(f"{host}:{running.pods['candidate-1'].port}") as candidate,
        grpc.aio.insecure_channel(second) as asked_of,
    ):
        for retrieval in (retrievals(question.candidates) for question in questions):
            source = asked_of if service == "candidate" else candidate
            found = await candidate_pb2_grpc.CandidateServiceStub(source).RetrieveCandidates(
                retrieval, timeout=_CALL_SECONDS
            )
            if service == "ranking":
                await ranking_pb2_grpc.RankingServiceStub(asked_of).RankCandidates(
                    _ranking(retrieval, found), timeout=_CALL_SECONDS
                )
    workers = psutil.Process(pod.pid).children()
    newest = max(workers, key=psutil.Process.create_time)
    return sum(memory_of(pid, running.home.cache).own for pid in (pod.pid, newest.pid))


def _ranking(
    retrieval: candidate_pb2.RetrieveCandidatesRequest,
    found: candidate_pb2.RetrieveCandidatesResponse,
) -> ranking_pb2.RankCandidatesRequest:
    """The ranking of what was found."""
    return ranking_pb2.RankCandidatesRequest(
        viewer=retrieval.viewer,
        keys=found.keys,
        scores=found.scores,
        co_watch_scores=found.co_watch_scores,
        ease_scores=found.ease_scores,
        source_masks=found.source_masks,
        page_size=PAGE,
    )


def memory_of(pid: int, cache: Path) -> Memory:
    """The memory of a process that has mapped files below `cache`."""
    process = psutil.Process(pid)
    areas = process.memory_maps()
    files = [area for area in areas if area.path.startswith(str(cache))]
    unread = sum(area.size - area.rss for area in files)
    own = sum(area.anonymous for area in areas)
    return Memory((process.memory_info().rss + unread) / 1e6, own / 1e6)
