"""What a large catalogue costs: the same chain over a small one and a large one, in turns.

vireo bench catalogue --data million --small thousands
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from bench.speed.asked import checked_shots, recommend_url
from bench.speed.h2load import Shot, fire
from bench.speed.row import Row
from bench.speed.stand import Stand, stand
from server.errors import VireoError
from server.home import Home
from server.releases import layout
from server.releases.tables import read_table

_BOUND = 1.5


@dataclass(frozen=True)
class CataloguePlan:
    """How much to do."""

    rounds: int = 5
    requests: int = 200
    """To each in each round, from one caller."""
    viewers: int = 40


def measure_catalogue(
    home: Home, large: str, small: str, plan: CataloguePlan, console: Console
) -> list[Row]:
    """Serves the newest releases of two data sets side by side and asks them in turns.

    Raises:
        VireoError: one wasn't trained, a stack does not start, or an answer is wrong.
    """
    with (
        stand(home, large, "large", direct=False) as over_large,
        stand(home, small, "small", direct=False) as over_small,
    ):
        return asyncio.run(_rows(over_large, over_small, plan, console))


async def _rows(large: Stand, small: Stand, plan: CataloguePlan, console: Console) -> list[Row]:
    shots = {id(running): await _shots(running, plan) for running in (large, small)}
    ratios, milliseconds = [], []
    for number in range(plan.rounds + 1):
        p50 = [await _p50(running, shots[id(running)], plan) for running in (large, small)]
        if number:  # what is slow only once, was so in the first
            ratios.append(p50[0] / p50[1])
            milliseconds.append(1000 * p50[0])
            console.print(f"round {number} of {plan.rounds} done")
    sizes = [
        len(read_table(running.release, layout.VIDEO_KEYS, np.int64, (None,)))
        for running in (large, small)
    ]
    compared = f"p50 of 1 caller, {sizes[0]:,} videos"
    return [
        Row.over_rounds(f"{compared} over {sizes[1]:,}", ratios, _BOUND),
        Row.over_rounds(f"{compared}, ms", milliseconds),
    ]


async def _shots(running: Stand, plan: CataloguePlan) -> list[Shot]:
    """A request of each viewer, whose answer is right."""
    questions = running.questions(plan.viewers)
    return await checked_shots(running.edge, questions, running.home.root)


async def _p50(running: Stand, shots: Sequence[Shot], plan: CataloguePlan) -> float:
    """Seconds of an answer, the median, over viewers one after the other."""
    took = []
    for shot in shots:
        volley = await fire(
            recommend_url(running.edge),
            [shot],
            running.home.root,
            callers=1,
            requests=max(1, plan.requests // len(shots)),
        )
        if volley.wrong:
            raise VireoError(f"{volley.wrong} answers are not those that they must be")
        took.append(volley.latencies)
    return float(np.median(np.concatenate(took)))
