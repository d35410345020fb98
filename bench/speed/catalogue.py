"""What a large catalogue costs: the same chain over a small one and a large one, in turns."""

from __future__ import annotations

import asyncio

import numpy as np
from rich.console import Console

from bench.speed.asked import checked_target
from bench.speed.h2load import Target
from bench.speed.plan import SpeedPlan
from bench.speed.row import Figures, Row
from bench.speed.stand import Stand, stand
from server.home import Home
from server.releases import layout
from server.releases.tables import read_table

_BOUND = 1.5


def measure_catalogue(home: Home, dataset: str, plan: SpeedPlan, console: Console) -> list[Row]:
    """Serve the newest releases of a data set and of `plan.small` side by side, asked in turns.

    Raises:
        VireoError: one wasn't trained, a stack does not start, or an answer is wrong.
    """
    with stand(home, dataset, "large") as large, stand(home, plan.small, "small") as small:
        return asyncio.run(_rows(large, small, plan, console))


async def _rows(large: Stand, small: Stand, plan: SpeedPlan, console: Console) -> list[Row]:
    figures = Figures(console)
    over_large, over_small = [await _edge(each, plan) for each in (large, small)]
    compared = f"p50 of 1 caller, {_videos(large):,} videos"
    for number in figures.rounds(plan.rounds):
        alone = plan.of_round(number).alone
        p50 = await over_large.p50(number, alone)
        ratio = p50 / await over_small.p50(number, alone)
        figures.add(f"{compared} over {_videos(small):,}", ratio, _BOUND)
        figures.add(f"{compared}, ms", 1000 * p50)
    return figures.rows()


async def _edge(running: Stand, plan: SpeedPlan) -> Target:
    questions = running.questions(plan.viewers)
    return await checked_target("the edge", running.edge, questions, running.folder)


def _videos(running: Stand) -> int:
    return len(read_table(running.release, layout.VIDEO_KEYS, np.int64, (None,)))
