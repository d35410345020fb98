"""Run a storm of bad requests on a stack of its own, and judge the stack afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

import grpc
import grpc.aio
import psutil
from rich.console import Console

from bench.chaos.home import prepared
from bench.fuzz.drip import dripping, unanswered
from bench.fuzz.messages import UNKNOWN
from bench.fuzz.storm import storm
from bench.fuzz.targets import methods_of
from bench.stack import OwnStack
from vireo.ops.stack.settings import METRICS_PORT_OFFSET, POD_KINDS, StackSettings
from vireo.ops.stack.state import running_stack
from vireo.server.home import Home
from vireo.v1.recommendation_pb2 import RecommendRequest
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

_MAX_GROWTH = 1.2
"""Memory at the end over that after the warm-up, of any process."""
_STEP_BYTES = 32 << 20
"""Growth that isn't judged: the heap of a small process, as the log's of 23 MB, grows in steps."""
_APART = "s3"
"""Not judged by its memory: no request reaches it, and reads alone make it grow for minutes."""
_MIN_JUDGED = 20_000
"""Minimum requests for memory to be judged: buffers grow during the first thousands."""
_WARM_UP = 0.25
"""Share of the requests before memory must be flat."""
_DRIPPING = 90.0
"""Maximum seconds for which connections drip bytes."""
_CALM = 30.0
"""Seconds within which the stack must answer in full afterwards."""


@dataclass(frozen=True)
class FuzzResult:
    """How the requests ended, and the stack's state afterwards."""

    requests: int
    seconds: float
    answers: Mapping[str, Mapping[str, int]]
    """How many requests ended with each status, by method."""
    unwanted: Mapping[str, list[str]]
    """Examples of requests that ended with UNKNOWN or INTERNAL, or not at all, that ended others
    on their connection, or whose query was not refused."""
    stored: list[str]
    """Files of the log that contain unknown fields."""
    unanswered: Mapping[str, list[str]]
    """What probes, and an ordinary call, got while connections dripped bytes into the same port."""
    died: list[str]
    """Processes that have ended or were restarted."""
    memory: Mapping[str, float]
    """Resident memory at the end over that after the warm-up, except that of the S3 server."""
    holds: bool
    """Whether nothing died, nothing was unwanted, memory stayed flat and all is well afterwards."""


def run_fuzz(home: Home, dataset: str, requests: int, seed: int, console: Console) -> FuzzResult:
    """Send `requests` requests to a stack that serves the newest release of a data set.

    Raises:
        VireoError: the stack can't be set up or started.
    """
    with prepared(home, dataset, console, "fuzz").running() as stack:
        return asyncio.run(_run(stack, requests, seed, console))


async def _run(stack: OwnStack, requests: int, seed: int, console: Console) -> FuzzResult:
    started = time.monotonic()
    before = _processes(stack)
    warm: dict[str, int] = {}
    last = started

    def progress(done: int) -> None:
        nonlocal last
        if not warm and done >= _WARM_UP * requests:
            warm.update(_memory(before))
        if time.monotonic() - last > 10:
            last = time.monotonic()
            console.print(f"{done:,} of {requests:,} after {last - started:.0f} s")

    counts = await storm(methods_of(stack.settings), requests, seed, progress)
    seconds = time.monotonic() - started
    after = _processes(stack)
    died = sorted(name for name, process in before.items() if after.get(name) != process)
    end = _memory({name: process for name, process in before.items() if name not in died})
    growth = {name: round(size / warm[name], 3) for name, size in end.items() if name in warm}
    flat = requests < _MIN_JUDGED or all(
        size <= max(_MAX_GROWTH * warm[name], warm[name] + _STEP_BYTES)
        for name, size in end.items()
        if name in warm
    )
    stored = await asyncio.to_thread(_with_unknown_fields, stack.home.root / "log")
    dripped = await _asked_meanwhile(stack.settings)
    well = await _well(stack.settings.edge)
    return FuzzResult(
        requests=counts.requests,
        seconds=round(seconds, 1),
        answers={name: dict(statuses) for name, statuses in sorted(counts.answers.items())},
        unwanted=counts.unwanted,
        stored=stored,
        unanswered=dripped,
        died=died,
        memory=growth,
        holds=flat and well and not (died or counts.unwanted or stored or dripped),
    )


def _processes(stack: OwnStack) -> dict[str, psutil.Process]:
    """Return the stack's processes by name, and its supervisor; none if it has ended."""
    state = running_stack(stack.home)
    if state is None:
        return {}
    pids = {each.name: each.pid for each in state.processes} | {"supervisor": state.pid}
    return {name: psutil.Process(pid) for name, pid in pids.items() if psutil.pid_exists(pid or -1)}


def _memory(processes: Mapping[str, psutil.Process]) -> dict[str, int]:
    """Return resident bytes by name of the processes that run and are judged."""
    found = {}
    for name, process in processes.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            found[name] = process.memory_info().rss
    return {name: size for name, size in found.items() if name != _APART}


def _with_unknown_fields(folder: Path) -> list[str]:
    """Return the files below a folder that contain unknown fields of the requests."""
    found = []
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.stat().st_size:
            with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
                if content.find(UNKNOWN * 2) >= 0:
                    found.append(file.name)
    return found


async def _asked_meanwhile(settings: StackSettings) -> dict[str, list[str]]:
    """Return what probes and an ordinary call didn't get while connections drip bytes."""
    metrics: dict[str, str] = {
        kind: f"127.0.0.1:{settings.pod_ports(kind)[0] + METRICS_PORT_OFFSET}" for kind in POD_KINDS
    }
    gateway = f"127.0.0.1:{settings.pod_ports('gateway')[0]}"
    try:
        async with asyncio.timeout(_DRIPPING):
            async with dripping([settings.edge, gateway, *metrics.values()]):
                found = await unanswered(metrics)
                if not await _well(settings.edge):
                    found["edge"] = ["no slate"]
                return found
    except TimeoutError:
        return {"all": [f"not asked within {_DRIPPING:g} s"]}


async def _well(edge: str) -> bool:
    """Return whether the stack gives a full answer in time."""
    deadline, request = time.monotonic() + _CALM, RecommendRequest(viewer_id="calm")
    async with grpc.aio.insecure_channel(edge) as channel:
        stub = RecommendationServiceStub(channel)
        while time.monotonic() < deadline:
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await stub.Recommend(request, timeout=5)
                if answer.items and not answer.degradations:
                    return True
            await asyncio.sleep(0.2)
    return False
