"""One caller at his limit beside another one, who asks for one slate after the other."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import grpc.aio
import numpy as np
from rich.console import Console

from bench.requests import greedy
from bench.speed.row import Figures, Row
from vireo.server.errors import VireoError
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc

MAX_RATIO, MAX_LOST = 1.2, 0.01
SETTINGS = {"VIREO_TRUSTED_HOPS": "1", "VIREO_OIP_HTTP": "true"}
"""Settings of the measured stack: its edge knows callers by the address that they state."""
_METADATA = (("x-forwarded-for", "10.1.0.2"),)
_OF_SLATES = frozenset({"new filters", "repeated filters"})
"""Kinds that are slates themselves: their baseline is a caller of as many plain ones. What plain
slates at once do to another caller's is told, and has no bound: slots are shared by caller, but
whoever comes finds them taken."""
_ENDS = {"invalid events": "INVALID_ARGUMENT", "large JSON": "400"}
"""How calls end that aren't refused, unless they end with OK."""
_WRONG = frozenset({"INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND", "400", "404"})
"""How they end if they ask for what the stack doesn't have."""
_SETTLING = 0.3
"""Seconds after the start of an attack that don't count."""


@dataclass(frozen=True)
class SharePlan:
    """How much is measured."""

    rounds: int = 3
    seconds: float = 5.0
    """Length of each turn: with and without the other caller, and once that one alone."""
    timed: bool = True
    """Whether times are judged; a busy machine has none to judge."""


SHORT = SharePlan(rounds=1, seconds=0.5, timed=False)
"""For CI: everything once and briefly."""


async def measure_share(
    edge: str,
    viewers: Sequence[str],
    labels: Sequence[tuple[str, str]],
    plan: SharePlan,
    console: Console,
) -> list[Row]:
    """Measure the median of slates beside each kind of greedy caller over that without, in turns.

    Filters cost next to nothing on a small catalogue, and are charged accordingly: one of a million
    videos has them charged.

    Args:
        edge: host:port; it takes addresses from `x-forwarded-for`.
        viewers: whose slates are asked for.
        labels: of the data set, to make filters of: (attribute, value) pairs.
        plan: how much to measure.
        console: for progress.

    Raises:
        VireoError: slates failed without anybody beside.
    """
    figures = Figures(console)
    await _slates(edge, viewers, plan.seconds)
    for kind in greedy.KINDS:
        ended: Counter[str] = Counter()
        for _ in range(plan.rounds):
            baseline = greedy.PLAIN if kind in _OF_SLATES else None
            before, failed, _ = await _turn(edge, viewers, labels, plan.seconds, baseline)
            if failed:
                raise VireoError("slates failed without this caller beside")
            beside, failed, some = await _turn(edge, viewers, labels, plan.seconds, kind)
            ended += some
            bound = MAX_RATIO if plan.timed and kind != greedy.PLAIN else None
            ratio = float(np.median(beside) / np.median(before)) if beside else float("inf")
            than = f"beside {baseline}" if baseline else "without"
            figures.add(f"slates beside {kind} over slates {than}, p50", ratio, bound)
            lost = failed / max(1, failed + len(beside))
            lost_bound = MAX_LOST if plan.timed else None
            figures.add(f"share of slates that failed beside {kind}", lost, lost_bound)
            figures.add(f"{kind}, calls/s beside slates", some.total() / plan.seconds)
        if plan.timed:
            alone = await _greedy(edge, kind, labels, plan.seconds)
            figures.add(f"{kind}, calls/s alone", alone.total() / plan.seconds)
        wrong = _WRONG - {_ENDS.get(kind, "OK")}
        figures.add(
            f"{kind}, calls that aren't what they should be", sum(ended[each] for each in wrong), 0
        )
        console.print(f"beside slates, {kind} ended with {dict(ended)}")
    return figures.rows()


async def _turn(
    edge: str,
    viewers: Sequence[str],
    labels: Sequence[tuple[str, str]],
    seconds: float,
    kind: str | None,
) -> tuple[list[float], int, Counter[str]]:
    """Return what `_slates` does, beside a greedy caller if a kind is named, and how that ended."""
    if kind is None:
        return *await _slates(edge, viewers, seconds), Counter()
    (latencies, failed), ended = await asyncio.gather(
        _slates(edge, viewers, seconds, begun := asyncio.Event()),
        _greedy(edge, kind, labels, seconds + _SETTLING, begun),
    )
    return latencies, failed, ended


async def _slates(
    edge: str, viewers: Sequence[str], seconds: float, begun: asyncio.Event | None = None
) -> tuple[list[float], int]:
    """Return the latencies in seconds of one caller's slates, and how many failed."""
    latencies, failed = list[float](), 0
    async with grpc.aio.insecure_channel(edge, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        if begun is not None:
            await begun.wait()
            await asyncio.sleep(_SETTLING)
        until = time.monotonic() + seconds
        for viewer in cycle(viewers):
            at = time.monotonic()
            if at > until:
                break
            request = recommendation_pb2.RecommendRequest(viewer_id=viewer, page_size=10)
            try:
                await stub.Recommend(request, timeout=5, metadata=_METADATA)
            except grpc.aio.AioRpcError:
                failed += 1
            else:
                latencies.append(time.monotonic() - at)
    return latencies, failed


async def _greedy(
    edge: str,
    kind: str,
    labels: Sequence[tuple[str, str]],
    seconds: float,
    begun: asyncio.Event | None = None,
) -> Counter[str]:
    """Run a greedy caller; return how many of its calls ended with each status."""
    command = (sys.executable, "-m", greedy.__name__, kind, edge, str(seconds))
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        process.stdin.write(json.dumps(labels).encode() + b"\n")
        await process.stdin.drain()
        if begun is not None:
            begun.set()
        line = await process.stdout.readline()
        await process.wait()
    finally:
        if begun is not None:
            begun.set()  # or the other one would wait for good
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not line:
        raise VireoError(f"the caller of {kind} failed")
    return Counter(json.loads(line))
