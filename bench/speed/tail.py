"""How much longer than usual the slowest answers take, behind Envoy, at a load that is sustained.

vireo bench tail
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from bench.speed.asked import Asked, checked_shots, recommend_url
from bench.speed.h2load import Shot, Volley, fire
from bench.speed.row import Row
from bench.speed.stand import Stand, stand
from server.errors import VireoError
from server.home import Home

_BOUND = 4.0


@dataclass(frozen=True)
class TailPlan:
    """How much to do."""

    rounds: int = 5
    callers: int = 8
    share: float = 0.6
    """Of the rate that these callers get when each asks again at once."""
    requests: int = 1600
    """At that rate in each round; a quarter as many to find it."""
    viewers: int = 40


def measure_tail(home: Home, dataset: str, plan: TailPlan, console: Console) -> list[Row]:
    """Runs the whole measurement on a stack of its own.

    Raises:
        VireoError: nothing was trained, the stack does not start, or an answer is wrong.
    """
    with stand(home, dataset, "tail", direct=False) as running:
        questions = running.questions(plan.viewers)
        return asyncio.run(tail_rows(running, questions, plan, console))


async def tail_rows(
    running: Stand, questions: Sequence[Asked], plan: TailPlan, console: Console
) -> list[Row]:
    """The measurement on a stack that runs.

    Raises:
        VireoError: an answer is wrong.
    """
    shots = await checked_shots(running.edge, questions, running.home.root)
    quarter = plan.requests // 4
    await _fire(running, shots[: plan.callers], plan, quarter)  # what is slow only once
    ratios, p50, p99, rates, wrong = [], [], [], [], []
    for number in range(1, plan.rounds + 1):
        first = number * plan.callers
        turn = [shots[(first + place) % len(shots)] for place in range(plan.callers)]
        sustained = (await _fire(running, turn, plan, quarter)).rate
        volley = await _fire(running, turn, plan, plan.requests, plan.share * sustained)
        median, slow = np.percentile(volley.latencies, [50, 99]).tolist()
        ratios.append(slow / median)
        p50.append(1000 * median)
        p99.append(1000 * slow)
        rates.append(sustained)
        wrong.append(volley.wrong / volley.requests)
        console.print(f"round {number} of {plan.rounds} done")
    load = f"{plan.callers} callers at {plan.share:.0%} of the sustained rate"
    return [
        Row.over_rounds(f"p99 over p50, {load}", ratios, _BOUND),
        # Something else that takes the cores meanwhile can make answers late beyond all limits.
        Row.over_rounds(f"share of wrong answers, {load}", wrong, 0.0),
        Row.over_rounds(f"p50, {load}, ms", p50),
        Row.over_rounds(f"p99, {load}, ms", p99),
        Row.over_rounds(f"sustained rate of {plan.callers} callers, answers a second", rates),
    ]


async def _fire(
    running: Stand,
    shots: Sequence[Shot],
    plan: TailPlan,
    requests: int,
    rate: float | None = None,
) -> Volley:
    volley = await fire(
        recommend_url(running.edge),
        shots,
        running.home.root,
        callers=plan.callers,
        requests=requests,
        rate=rate,
    )
    if volley.wrong and rate is None:
        raise VireoError(f"{volley.wrong} answers are not those that they must be")
    return volley
