"""How much load the stack sustains."""

from __future__ import annotations

import asyncio

from bench.chaos.chain import Chain
from bench.load import ClosedLoad

_CALLERS = 8
"""That ask one after the other: enough to keep it busy, too few to be shed."""


async def sustainable_rate(chain: Chain, seconds: float) -> float:
    """Full answers a second, while a few callers ask for `seconds`."""
    viewers = list(chain.judge.watched)
    async with ClosedLoad(chain.settings.edge, viewers, _CALLERS) as load:
        await asyncio.sleep(seconds)
    return sum(map(chain.judge.full, load.answers)) / seconds
