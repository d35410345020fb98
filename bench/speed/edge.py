"""Latency at the edge: its tail under load, and what a large catalogue adds."""

from __future__ import annotations

import asyncio

import numpy as np
from rich.console import Console

from bench.speed.plan import SpeedPlan
from bench.speed.row import Figures, Row
from bench.speed.stand import Stand, stand
from vireo.server.home import Home
from vireo.server.releases import layout
from vireo.server.releases.tables import read_table

_MAX_TAIL = 4.0
_CALLERS = 8
_SHARE = 0.6
"""Share of the rate that these callers sustain in a closed loop."""
_MAX_LARGE_OVER_SMALL = 1.5


def tail_rows(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    """Measure p99 over p50 behind Envoy at a sustained load."""
    return asyncio.run(_tail(running, plan, console))


async def _tail(running: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    edge, figures = await running.edge_target(plan.viewers), Figures(console)
    load = f"{_CALLERS} callers at {_SHARE:.0%} of the sustained rate"
    for number in figures.rounds(plan.rounds):
        requests = plan.of_round(number).requests
        sustained = (await edge.load(number, _CALLERS, requests // 4)).rate
        found = await edge.load(number, _CALLERS, requests, _SHARE * sustained, max_wrong=1.0)
        p50, p99 = np.percentile(found.latencies, [50, 99]).tolist()
        figures.add(f"p99 over p50, {load}", p99 / p50, _MAX_TAIL)
        # Other load on the cores can make answers late beyond all limits.
        figures.add(f"share of wrong answers, {load}", found.wrong / found.requests, 0.0)
        figures.add(f"p50, {load}, ms", 1000 * p50)
        figures.add(f"p99, {load}, ms", 1000 * p99)
        figures.add(f"sustained rate of {_CALLERS} callers, answers a second", sustained)
    return figures.rows()


def measure_catalogue(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Serve the newest releases of a data set and of `plan.small` side by side, asked in turns."""
    with (
        stand(home, dataset, "large") as large,
        stand(home, plan.small, "small") as small,
    ):
        return asyncio.run(_catalogue(large, small, plan, console))


async def _catalogue(large: Stand, small: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    figures = Figures(console)
    over_large, over_small = [await each.edge_target(plan.viewers) for each in (large, small)]
    compared = f"p50 of 1 caller, {_videos(large):,} videos"
    for number in figures.rounds(plan.rounds):
        alone = plan.of_round(number).alone
        p50 = await over_large.p50(number, alone)
        ratio = p50 / await over_small.p50(number, alone)
        figures.add(f"{compared} over {_videos(small):,}", ratio, _MAX_LARGE_OVER_SMALL)
        figures.add(f"{compared}, ms", 1000 * p50)
    return figures.rows()


def _videos(running: Stand) -> int:
    return len(read_table(running.release, layout.VIDEO_KEYS, np.int64, (None,)))
