"""Case 9: callers who wait for 5 ms."""

from __future__ import annotations

import asyncio

from bench.chaos.chain import Chain
from bench.chaos.result import CaseResult

CASE = 9
TITLE = "callers with a deadline of 5 ms"


async def run(chain: Chain) -> CaseResult:
    """Asks in vain, and then looks whether any pod still works on it."""
    findings, plan = chain.findings(CASE), chain.plan
    async with chain.load(deadline=plan.short_deadline) as load:
        await asyncio.sleep(plan.short_deadline_seconds)
    await asyncio.sleep(plan.settle)
    return findings.result(load, lost=["DEADLINE_EXCEEDED"])
