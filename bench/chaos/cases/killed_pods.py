"""Case 1: kill -9, one pod at a time, again and again."""

from __future__ import annotations

import asyncio
import signal
from itertools import count

from bench.chaos.chain import Chain
from bench.chaos.result import CaseResult

CASE = 1
TITLE = "kill -9 of one pod of two, each kind, repeatedly"


async def run(chain: Chain) -> CaseResult:
    """Kills pods in turn, each once the one before is back."""
    findings, plan = chain.findings(CASE), chain.plan
    kills = 0
    async with chain.load() as load:
        await asyncio.sleep(plan.quiet)
        for number in count():
            if kills >= len(plan.killed_pods) and len(load.answers) >= plan.killed_requests:
                break
            name = plan.killed_pods[number % len(plan.killed_pods)]
            took = await chain.until_replaced(name, chain.send(name, signal.SIGKILL))
            findings.must(took <= 2 * plan.patience, f"{name} did not come back")
            kills += 1
            chain.tell(f"{name} killed, back after {took:.1f} s; {len(load.answers)} answers")
            await asyncio.sleep(plan.settle)
    findings.note(f"{kills} kills")
    return findings.result(load)
