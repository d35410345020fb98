"""Batches: what callers on the site notice of one, and how one survives its gateways."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from bench.live.stack import LiveStack
from bench.load import Answer, SteadyLoad, beside, closed_load, p99
from bench.rows import Row
from vireo.server.errors import VireoError
from vireo_client import AsyncClient

MAX_RATIO = 1.1
_LOAD_SHARE = 0.6
"""Share of the capacity that callers on the site use."""
_CALLERS = 8
"""Callers in a closed loop, who use all of the capacity."""
_SETTLING = 0.2
"""Seconds at the beginning of a turn that count for neither kind."""
_PARTS = 3
"""Parts of the turns whose ratios are the spread."""
_VIEWERS_OF_A_CALL = 2_000


@dataclass(frozen=True)
class BatchPlan:
    """How much is measured. All times in seconds."""

    turns: int = 60
    """Turns of slates without a batch, and as many with one."""
    seconds: float = 2.0
    """Length of each."""
    capacity_seconds: float = 8.0
    viewers: int = 3_000
    """Viewers of the batch whose gateways are killed."""
    timed: bool = True
    """Whether times are judged; a busy machine has none to judge."""


SHORT = BatchPlan(turns=2, capacity_seconds=2.0, viewers=300, timed=False)
"""For CI: everything once and briefly."""


async def measure_batches(live: LiveStack, plan: BatchPlan) -> list[Row]:
    """Measure slates beside a batch, and kill gateways in the middle of one."""
    rows = await _beside(live, plan) + await _killed_gateways(live, plan)
    await live.stack.until_healthy(live.plan.patience)
    return rows


async def _beside(live: LiveStack, plan: BatchPlan) -> list[Row]:
    """Ask for slates at 60% load, in turns with and without a batch beside them.

    The load never pauses, and turns are short: what else the machine does meets both alike.
    """
    edge, viewers = live.edge, live.viewers
    capacity = await closed_load(edge, viewers, _CALLERS, plan.capacity_seconds)
    rate = _LOAD_SHARE * len(capacity) / plan.capacity_seconds
    turns = list[tuple[float, bool]]()
    slates = 0
    async with SteadyLoad(edge, viewers, rate) as load:
        for number in range(2 * plan.turns):
            runs = number % 2 == 1
            async with _batch_beside(live, runs=runs) as received:
                turns.append((time.monotonic(), runs))
                await asyncio.sleep(plan.seconds)
            slates += received.total()
            live.console.print(f"turn {number + 1} of {2 * plan.turns} done")
    failed = [each.failure for each in load.answers if each.failure]
    if failed or not load.answers:
        count = f"{len(failed)} of {len(load.answers)}"
        raise VireoError(f"{count} slates failed: {''.join(failed[:1])}")
    size = max(2, 2 * (plan.turns // _PARTS))
    parts = [turns[begin : begin + size] for begin in range(0, len(turns), size)]
    ratios = [tails[1] / tails[0] for tails in (_tails(load.answers, part, plan) for part in parts)]
    alone, beside_it = _tails(load.answers, turns, plan)
    return [
        Row("slates at 60% load, p99 ms", alone * 1e3),
        Row("slates at 60% load beside a batch, p99 ms", beside_it * 1e3),
        Row(
            "slates beside a batch over slates without, p99",
            beside_it / alone,
            (min(ratios), max(ratios)),
            MAX_RATIO if plan.timed else None,
        ),
        Row("slates/s of a batch beside 60% load", slates / (plan.turns * plan.seconds)),
    ]


def _tails(
    answers: Sequence[Answer], turns: Sequence[tuple[float, bool]], plan: BatchPlan
) -> tuple[float, float]:
    """Return the 99th percentiles in seconds without and with a batch, over all of the turns."""
    begins = np.array([begin for begin, _ in turns])
    seconds: tuple[list[Answer], list[Answer]] = ([], [])
    for answer in answers:
        turn = int(np.searchsorted(begins, answer.at, "right")) - 1
        if turn >= 0 and _SETTLING <= answer.at - turns[turn][0] < plan.seconds:
            seconds[turns[turn][1]].append(answer)
    return p99(seconds[0]), p99(seconds[1])


async def _killed_gateways(live: LiveStack, plan: BatchPlan) -> list[Row]:
    """Kill -9 each gateway in the middle of a batch; count the viewers who didn't come once."""
    live.console.print("killing gateways in the middle of a batch")
    viewers = [f"mail-{number}" for number in range(plan.viewers)]
    gateways = live.stack.names("gateway")
    due = {len(viewers) * n // (len(gateways) + 1): name for n, name in enumerate(gateways, 1)}
    received: Counter[str] = Counter()
    degraded = 0
    async with AsyncClient(live.edge) as client:
        async for viewer, slate in client.batch(viewers, patience=live.plan.patience):
            received[viewer] += 1
            degraded += bool(slate.degradations)
            if gateway := due.get(received.total()):
                live.stack.send(gateway, signal.SIGKILL)
    wrong = sum(received[viewer] != 1 for viewer in viewers)
    return [
        Row("viewers of a batch with killed gateways who didn't come exactly once", wrong, bound=0),
        Row("degraded slates in it", degraded, bound=0),
    ]


@asynccontextmanager
async def _batch_beside(live: LiveStack, *, runs: bool) -> AsyncIterator[Counter[str]]:
    """Yield how often slates came of a batch under way until the block ends, if it is to run."""
    received: Counter[str] = Counter()
    if not runs:
        yield received
        return
    many = [live.viewers[number % len(live.viewers)] for number in range(_VIEWERS_OF_A_CALL)]

    async def flow() -> None:
        async with AsyncClient(live.edge) as client:
            while True:
                async for viewer, _ in client.batch(many, patience=live.plan.patience):
                    received[viewer] += 1

    async with beside(flow()):
        yield received
