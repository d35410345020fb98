"""Case 16: gateways are killed while they record events."""

from __future__ import annotations

import asyncio
import signal

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.chaos.replay import opened_replay


async def run(chain: Chain) -> CaseResult:
    """Kill each gateway in turn; callers repeat what wasn't acknowledged, as it was."""
    plan, findings = chain.plan, chain.findings
    async with opened_replay(chain) as replay:
        async with chain.load() as load, chain.recorder() as recorder:
            await asyncio.sleep(plan.quiet)
            for name in plan.killed_gateways:
                took = await chain.replaced(name, signal.SIGKILL)
                findings.progress(f"{name} back after {took:.1f} s")
                await asyncio.sleep(plan.settle)
        findings.note(f"{len(plan.killed_gateways)} kills, {len(recorder.refusals)} calls repeated")
        await replay.check(recorder)
    return findings.result(load)
