"""Cases 1 and 2: pods that are killed, and pods that are restarted, one at a time."""

from __future__ import annotations

import asyncio
import signal
from itertools import cycle

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult


async def killed(chain: Chain) -> CaseResult:
    """Kill pods in turn with SIGKILL, each once the one before is back."""
    plan, kills = chain.plan, 0
    async with chain.load() as load:
        await asyncio.sleep(plan.quiet)
        for name in cycle(plan.killed_pods):
            if kills >= len(plan.killed_pods) and len(load.answers) >= plan.killed_requests:
                break
            took = await chain.replaced(name, signal.SIGKILL)
            kills += 1
            chain.findings.progress(f"{name} back after {took:.1f} s; {len(load.answers)} answers")
            await asyncio.sleep(plan.settle)
    chain.findings.note(f"{kills} kills")
    return chain.findings.result(load)


async def rolling(chain: Chain) -> CaseResult:
    """Restart each pod once Envoy calls the one before again."""
    plan = chain.plan
    pods = plan.restart_rounds * plan.restarted_pods
    async with chain.load() as load:
        await asyncio.sleep(plan.quiet)
        for name in pods:
            took = await chain.replaced(name, signal.SIGTERM)
            chain.findings.progress(
                f"{name} restarted in {took:.1f} s; {len(load.answers)} answers"
            )
        await asyncio.sleep(plan.settle)
    chain.findings.note(f"{len(pods)} restarts")
    return chain.findings.result(load)
