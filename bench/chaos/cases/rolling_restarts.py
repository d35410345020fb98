"""Case 2: SIGTERM to every pod, one after another."""

from __future__ import annotations

import asyncio
import signal

from bench.chaos.chain import Chain
from bench.chaos.result import CaseResult

CASE = 2
TITLE = "rolling restart of every pod by SIGTERM"


async def run(chain: Chain) -> CaseResult:
    """Restarts each pod once Envoy sends to the one before again."""
    findings, plan = chain.findings(CASE), chain.plan
    restarts = 0
    async with chain.load() as load:
        await asyncio.sleep(plan.quiet)
        for _ in range(plan.restart_rounds):
            for name in plan.restarted_pods:
                took = await chain.until_replaced(name, chain.send(name, signal.SIGTERM))
                findings.must(took <= 2 * plan.patience, f"{name} did not come back")
                restarts += 1
                chain.tell(f"{name} restarted in {took:.1f} s; {len(load.answers)} answers")
        await asyncio.sleep(plan.settle)
    findings.note(f"{restarts} restarts")
    return findings.result(load)
