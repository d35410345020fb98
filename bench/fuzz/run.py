"""Run a storm of bad requests on a stack of its own, and judge the stack afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import grpc
import psutil
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from rich.console import Console

from bench.fuzz.calls import GrpcCaller, Method
from bench.fuzz.frames import BROKEN, ask_by_frames
from bench.load import PAGE, for_each
from bench.site import opened_site
from bench.stack import Stack, built_home, until
from vireo.ops.stack.settings import StackSettings
from vireo.ops.stack.state import Layout, running_stack
from vireo.server.errors import VireoError
from vireo.server.home import Home

UNWANTED = frozenset({"UNKNOWN", "INTERNAL", "DATA_LOSS", "HUNG", BROKEN})
"""Statuses that bad input must not get: a clear one says what is wrong with it."""
_AT_A_TIME = 12
_FRAMES_SHARE = 0.05
"""Share of requests below gRPC; each takes a connection of its own."""
_MAX_EXAMPLES = 5
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
_CALM = 30.0
"""Seconds within which the stack must answer in full afterwards."""


@dataclass
class FuzzResult:
    """How the requests ended, and the stack's state afterwards."""

    requests: int = 0
    answers: dict[str, dict[str, int]] = field(default_factory=dict)
    """How many requests ended with each status, by method."""
    unwanted: dict[str, list[str]] = field(default_factory=dict)
    """Examples by method and status of requests that ended with UNKNOWN or INTERNAL, or not at all,
    or that ended others on their connection: how each was spoilt, and the message."""
    seconds: float = 0.0
    died: list[str] = field(default_factory=list)
    """Processes that have ended or were restarted."""
    memory: dict[str, float] = field(default_factory=dict)
    """Resident memory at the end over that after the warm-up, except that of the S3 server."""
    holds: bool = False
    """Whether nothing died, nothing was unwanted, memory stayed flat and all is well afterwards."""

    def add(self, method: Method, how: str, ended: str) -> None:
        """Count a request that ended with a status, and any message after a colon."""
        status, _, message = ended.partition(":")
        # The edge forwards a call once it has arrived completely, and ends one that doesn't by its
        # own timeouts, which are longer than these callers stay.
        bounded = not (method.place == "edge" or method.descriptor.client_streaming)
        if status == "DEADLINE_EXCEEDED" and how.endswith("silent") and bounded:
            status = "HUNG"
        self.requests += 1
        statuses = self.answers.setdefault(method.name, {})
        statuses[status] = statuses.get(status, 0) + 1
        if status in UNWANTED:
            examples = self.unwanted.setdefault(f"{method.name} {status}", [])
            if len(examples) < _MAX_EXAMPLES:
                examples.append(f"{how}:{message}")


def methods_of(settings: StackSettings) -> list[Method]:
    """Return the methods of a stack's edge and of its first pod of each kind, by reflection."""
    pods = [(kind, f"127.0.0.1:{settings.pod_ports(kind)[0]}") for kind in settings.kinds]
    found = []
    for place, address in [("edge", settings.edge), *pods]:
        with grpc.insecure_channel(address) as channel:
            described = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(described)
            for name in described.get_services():
                methods = pool.FindServiceByName(name).methods
                found += [Method(place, address, each) for each in methods]
    return found


def run_fuzz(
    home: Home,
    dataset: str,
    requests: int,
    seed: int,
    console: Console,
    layout: Layout = "separate",
) -> FuzzResult:
    """Send `requests` requests to a stack that serves the newest release of a data set.

    Raises:
        VireoError: the stack can't be set up or started.
    """
    release = home.trained_release(dataset)
    settings = {"VIREO_LAYOUT": layout, "VIREO_SLATE_SHARE": "1"}
    own = built_home(home, "fuzz/stack", dataset, settings)
    with Stack.of(own, release, settings=settings).running() as stack:
        return asyncio.run(_run(stack, requests, seed, console))


async def _run(stack: Stack, requests: int, seed: int, console: Console) -> FuzzResult:
    started = last = time.monotonic()
    before = _processes(stack)
    warm: dict[str, int] = {}

    def progress(done: int) -> None:
        nonlocal last
        if not warm and done >= _WARM_UP * requests:
            warm.update(_memory(before))
        if time.monotonic() - last > 10:
            last = time.monotonic()
            console.print(f"{done:,} of {requests:,} after {last - started:.0f} s")

    result = await _storm(methods_of(stack.settings), requests, seed, progress)
    result.seconds = round(time.monotonic() - started, 1)
    after = _processes(stack)
    result.died = sorted(name for name, process in before.items() if after.get(name) != process)
    end = _memory({name: each for name, each in before.items() if name not in result.died})
    end = {name: size for name, size in end.items() if name in warm}
    result.memory = {name: round(size / warm[name], 3) for name, size in end.items()}
    flat = requests < _MIN_JUDGED or all(
        size <= max(_MAX_GROWTH * warm[name], warm[name] + _STEP_BYTES)
        for name, size in end.items()
    )
    well = await _well(stack.settings.edge)
    result.holds = flat and well and not (result.died or result.unwanted)
    return result


async def _storm(
    methods: Sequence[Method], requests: int, seed: int, progress: Callable[[int], None]
) -> FuzzResult:
    """Send requests to the methods in turn; the same seed makes the same requests."""
    result, caller = FuzzResult(), GrpcCaller()

    async def send(number: int) -> None:
        random = Random(f"{seed} {number}")  # noqa: S311
        method = methods[number % len(methods)]
        by_frames = random.random() < _FRAMES_SHARE
        ask = ask_by_frames if by_frames else caller.ask
        result.add(method, *await ask(random, method))
        progress(result.requests)

    try:
        await for_each(range(requests), send, _AT_A_TIME)
    finally:
        await caller.close()
    return result


def _processes(stack: Stack) -> dict[str, psutil.Process]:
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


async def _well(edge: str) -> bool:
    """Return whether the stack gives a full answer in time."""
    async with opened_site(edge, _CALM) as site:

        async def full() -> bool:
            answer = await site.slate("calm", PAGE)
            return bool(answer.items and not answer.degradations)

        try:
            await until(full, "a full answer", patience=_CALM)
        except VireoError:
            return False
    return True
