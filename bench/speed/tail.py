"""How much longer than usual the slowest answers take, behind Envoy, at a sustained load."""

from __future__ import annotations

import asyncio

import numpy as np
from rich.console import Console

from bench.speed.asked import checked_target
from bench.speed.plan import SpeedPlan
from bench.speed.row import Figures, Row
from bench.speed.stand import Stand

_BOUND = 4.0
_CALLERS = 8
_SHARE = 0.6
"""Of the rate that these callers get when each asks again at once."""


def tail_rows(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure the edge of a stand.

    Raises:
        VireoError: an answer is wrong.
    """
    return asyncio.run(_rows(running, plan, console))


async def _rows(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    questions = running.questions(plan.viewers)
    edge = await checked_target("the edge", running.edge, questions, running.folder)
    figures = Figures(console)
    load = f"{_CALLERS} callers at {_SHARE:.0%} of the sustained rate"
    for number in figures.rounds(plan.rounds):
        requests = plan.of_round(number).requests
        sustained = (await edge.fire(number, _CALLERS, requests // 4)).rate
        volley = await edge.fire(number, _CALLERS, requests, _SHARE * sustained, max_wrong=1.0)
        p50, p99 = np.percentile(volley.latencies, [50, 99]).tolist()
        figures.add(f"p99 over p50, {load}", p99 / p50, _BOUND)
        # Something else that takes the cores meanwhile can make answers late beyond all limits.
        figures.add(f"share of wrong answers, {load}", volley.wrong / volley.requests, 0.0)
        figures.add(f"p50, {load}, ms", 1000 * p50)
        figures.add(f"p99, {load}, ms", 1000 * p99)
        figures.add(f"sustained rate of {_CALLERS} callers, answers a second", sustained)
    return figures.rows()
