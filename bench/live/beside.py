"""Slates beside events, and events alone."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import numpy as np

from bench.live.site import event, opened_site, steady_events
from bench.live.stack import LiveStack
from bench.load import closed_load
from bench.speed.row import Figures, Row
from vireo.server.errors import VireoError
from vireo.v1 import event_pb2

_CALLERS = 1
_INTAKE_CALLERS = 4
_INTAKE_BATCH = 500
_MAX_RATIO = 1.1
_MIN_INTAKE = 5_000.0


async def measure_beside(live: LiveStack) -> list[Row]:
    """Ask for slates with and without events beside them, in turns; then record events alone."""
    plan, figures = live.plan, Figures(live.console)
    without, beside = list[float](), list[float]()
    for number in figures.rounds(plan.rounds):
        quiet = await _slates(live, events=False)
        busy = await _slates(live, events=True)
        if number:
            without.append(quiet)
            beside.append(busy)
            figures.add("slates without events, p50 ms", quiet * 1e3)
            figures.add(f"slates beside {plan.rate:.0f} events/s, p50 ms", busy * 1e3)
            bound = _MAX_RATIO if plan.timed else None
            figures.add("slates beside events over slates without, p50", busy / quiet, bound)
    rows = figures.rows()
    intake = await _intake(live)
    bound = _MIN_INTAKE if plan.timed else None
    rows.append(Row("events/s that are recorded in batches", intake, bound=bound, at_least=True))
    return rows


async def _slates(live: LiveStack, *, events: bool) -> float:
    """Return the median latency in seconds."""
    plan = live.plan
    async with AsyncExitStack() as flow:
        if events:
            site = await flow.enter_async_context(opened_site(live.edge, plan.patience))
            await flow.enter_async_context(steady_events(site, plan.rate, live.videos))
        answers = await closed_load(live.edge, live.viewers, _CALLERS, plan.seconds)
    good = [each.seconds for each in answers if not each.failure]
    if len(good) < len(answers) or not good:
        raise VireoError(f"{len(answers) - len(good)} of {len(answers)} slates failed")
    return float(np.median(good))


async def _intake(live: LiveStack) -> float:
    """Return the events a second that callers in a closed loop get acknowledged."""
    plan, recorded = live.plan, 0
    until = time.monotonic() + plan.seconds

    async def call(caller: int) -> None:
        nonlocal recorded
        async with opened_site(live.edge, plan.patience) as site:
            batch = 0
            while time.monotonic() < until:
                some = [
                    event(
                        f"intake-{caller}-{batch}-{number}",
                        f"intake-{number}",
                        event_pb2.EVENT_KIND_IMPRESSION,
                        live.videos[number % len(live.videos)],
                    )
                    for number in range(_INTAKE_BATCH)
                ]
                await site.record(some)
                recorded += len(some)
                batch += 1

    begun = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for caller in range(_INTAKE_CALLERS):
            tasks.create_task(call(caller))
    return recorded / (time.monotonic() - begun)
