"""Waits for what must follow a fault, and measures how long it took."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from bench.chaos.result import Judge
from bench.load import SteadyLoad

_POLL = 0.1
_FULL_SECONDS = 2.0
"""For so long all answers must have been full."""


async def seconds_until(condition: Callable[[], Awaitable[bool]], patience: float) -> float:
    """Seconds until `condition` held; infinite where it didn't within `patience` seconds."""
    started = time.monotonic()
    while not await condition():
        if time.monotonic() - started > patience:
            return math.inf
        await asyncio.sleep(_POLL)
    return time.monotonic() - started


async def seconds_until_full(
    load: SteadyLoad, judge: Judge, since: float, patience: float
) -> float:
    """Seconds from `since` until the last answer left that wasn't full; 0 where none did.

    Returns once full answers alone have come for two seconds; infinite where that takes more
    than `patience` seconds. Times are `time.monotonic`'s.
    """

    def last() -> float:
        late = (each.at for each in load.answers if each.at >= since and not judge.full(each))
        return max(late, default=since)

    async def full_of_late() -> bool:
        return time.monotonic() - last() > _FULL_SECONDS and load.answers[-1].at > last()

    if math.isinf(await seconds_until(full_of_late, patience)):
        return math.inf
    return last() - since
