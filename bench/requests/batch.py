"""Batches: what callers on the site notice of one, and how one survives its gateways."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from rich.console import Console
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc

from bench.load import SteadyLoad, closed_load, p99
from bench.speed.row import Figures, Row
from bench.stack import OwnStack
from server.errors import VireoError

MAX_RATIO = 1.1
_LOAD_SHARE = 0.6
"""Share of the capacity that callers on the site use."""
_CALLERS = 8
"""Callers in a closed loop, who use all of the capacity."""
_VIEWERS_OF_A_CALL = 10_000
_CALL_SECONDS = 320.0
_PAUSE = 0.1
_RESUMED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)


@dataclass(frozen=True)
class BatchPlan:
    """How much is measured. All times in seconds."""

    rounds: int = 9
    """Rounds of slates with and without a batch beside them, in turns."""
    seconds: float = 12.0
    """Length of each: some thousand slates, so that a 99th percentile is one."""
    capacity_seconds: float = 8.0
    viewers: int = 3_000
    """Viewers of the batch whose gateways are killed."""
    patience: float = 120.0
    timed: bool = True
    """Whether times are judged; a busy machine has none to judge."""


SHORT = BatchPlan(rounds=1, seconds=3.0, capacity_seconds=2.0, viewers=300, timed=False)
"""For CI: everything once and briefly."""


@dataclass
class Batch:
    """A batch under way, which is resumed whenever its call ends early."""

    received: Counter[str] = field(default_factory=Counter)
    """How often each viewer's slate came."""
    degraded: int = 0
    resumed: int = 0

    async def run(self, target: str, viewers: Sequence[str], patience: float) -> None:
        """Receive the slates of up to 10,000 viewers from the edge at host:port."""
        request = recommendation_pb2.BatchRecommendRequest(viewer_ids=viewers)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target, options) as channel:
            stub: Any = recommendation_pb2_grpc.RecommendationServiceStub(channel)
            until = time.monotonic() + patience
            while True:
                try:
                    async for response in stub.BatchRecommend(request, timeout=_CALL_SECONDS):
                        self.received[response.viewer_id] += 1
                        self.degraded += bool(response.slate.degradations)
                        request.resume_token = response.resume_token
                        until = time.monotonic() + patience
                except grpc.aio.AioRpcError as error:
                    if error.code() not in _RESUMED or time.monotonic() > until:
                        raise VireoError(f"{error.code().name}: {error.details()}") from error
                else:
                    return
                self.resumed += 1
                await asyncio.sleep(_PAUSE)


async def measure_beside_batch(
    stack: OwnStack, viewers: Sequence[str], plan: BatchPlan, console: Console
) -> list[Row]:
    """Ask for slates at 60% load with and without a batch beside them, in turns.

    Args:
        stack: the running stack.
        viewers: who asks, and whose slates are in the batch.
        plan: how much to measure.
        console: for progress.

    Raises:
        VireoError: slates failed.
    """
    edge, figures = stack.settings.edge, Figures(console)
    answers = await closed_load(edge, viewers, _CALLERS, plan.capacity_seconds)
    rate = _LOAD_SHARE * len(answers) / plan.capacity_seconds
    for number in figures.rounds(plan.rounds):
        tails = dict[bool, float]()
        # In turns, which goes first: a machine that slows down meets both alike.
        for beside in (False, True) if number % 2 else (True, False):
            async with _batch_beside(edge, viewers, runs=beside, patience=plan.patience) as batch:
                async with SteadyLoad(edge, viewers, rate) as load:
                    await asyncio.sleep(plan.seconds)
                slates = batch.received.total()
            failed = [each.failure for each in load.answers if each.failure]
            if failed or not load.answers:
                count = f"{len(failed)} of {len(load.answers)}"
                raise VireoError(f"{count} slates failed: {''.join(failed[:1])}")
            tails[beside] = p99(load.answers)
            if beside:
                figures.add("slates/s of a batch beside 60% load", slates / plan.seconds)
        figures.add("slates at 60% load, p99 ms", tails[False] * 1e3)
        figures.add("slates at 60% load beside a batch, p99 ms", tails[True] * 1e3)
        bound = MAX_RATIO if plan.timed else None
        figures.add(
            "slates beside a batch over slates without, p99", tails[True] / tails[False], bound
        )
    return figures.rows()


async def measure_killed_gateways(stack: OwnStack, plan: BatchPlan, console: Console) -> list[Row]:
    """Kill -9 each gateway in the middle of a batch; count the viewers who didn't come once."""
    console.print("killing gateways in the middle of a batch")
    viewers = [f"mail-{number}" for number in range(plan.viewers)]
    batch = Batch()
    running = asyncio.create_task(batch.run(stack.settings.edge, viewers, plan.patience))
    gateways = [pod for pod in stack.pods() if pod.name.startswith("gateway-")]
    for number, gateway in enumerate(gateways, 1):
        due = len(viewers) * number // (len(gateways) + 1)
        while batch.received.total() < due and not running.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if gateway.pid is not None:
            os.kill(gateway.pid, signal.SIGKILL)
    await running
    wrong = sum(batch.received[viewer] != 1 for viewer in viewers)
    return [
        Row("viewers of a batch with killed gateways who didn't come exactly once", wrong, bound=0),
        Row("calls by which it was resumed", batch.resumed, bound=1, at_least=True),
        Row("degraded slates in it", batch.degraded, bound=0),
    ]


@asynccontextmanager
async def _batch_beside(
    edge: str, viewers: Sequence[str], *, runs: bool, patience: float
) -> AsyncIterator[Batch]:
    """Yield a batch that is under way until the block ends, if it is to run."""
    batch = Batch()
    if not runs:
        yield batch
        return
    many = [viewers[number % len(viewers)] for number in range(_VIEWERS_OF_A_CALL)]

    async def flow() -> None:
        while True:
            await batch.run(edge, many, patience)

    flowing = asyncio.create_task(flow())
    try:
        yield batch
    finally:
        ended = flowing.done()
        flowing.cancel()
        with suppress(asyncio.CancelledError):
            await flowing
        if ended:
            raise VireoError("the batch has ended by itself")
