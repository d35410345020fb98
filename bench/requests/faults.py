"""Faults beside a load: pods that are killed, and releases that are swapped."""

from __future__ import annotations

import asyncio
import itertools
import random

from bench.live.catalogue import promote
from bench.live.stack import LiveStack
from bench.requests.plan import RequestsPlan

_KINDS = (("candidate",), ("ranking",), ("gateway",))


async def pods_killed(live: LiveStack, plan: RequestsPlan) -> None:
    """Kill -9 pods until cancelled: one at a time, and now and then all of an inner kind."""
    draw = random.Random(7)  # noqa: S311
    for number in itertools.count():
        await asyncio.sleep(plan.calm)
        [kind] = _KINDS[number % len(_KINDS)]
        names = live.names(kind)
        every = kind != "gateway" and number % 2 == 0  # without a gateway nothing answers
        await live.kill(names if every else [draw.choice(names)])


async def swapped_and_killed(live: LiveStack, plan: RequestsPlan) -> None:
    """Promote the stack's releases in turn and kill -9 a pod after each, until cancelled."""
    draw = random.Random(8)  # noqa: S311
    for number in itertools.count(1):
        await promote(live, live.stack.releases[number % len(live.stack.releases)])
        await live.kill([draw.choice(live.names("candidate", "ranking", "gateway"))])
        await asyncio.sleep(plan.calm)
