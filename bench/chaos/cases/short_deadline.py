"""Case 9: callers who wait for 5 ms."""

from __future__ import annotations

import asyncio

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.chaos.views import counted

_RUN = "vireo_work_run_total"
_ABANDONED = "vireo_work_abandoned_total"
_UNDER_WAY = 0.5
"""Seconds within which what runs when its caller leaves must end."""


async def run(chain: Chain) -> CaseResult:
    """Ask with a deadline of 5 ms, then check that no pod goes on working."""
    findings, plan = chain.findings, chain.plan
    ports = chain.pods("candidate", "ranking").values()
    before = await counted(ports)
    async with chain.load(plan.short_deadline_rate, plan.short_deadline) as load:
        await asyncio.sleep(plan.short_deadline_seconds)
    await asyncio.sleep(_UNDER_WAY)
    ended = await counted(ports)
    await asyncio.sleep(plan.settle)
    after = await counted(ports)
    findings.must(_RUN in ended, f"pods show no {_RUN}")
    later = after[_RUN] - ended[_RUN]
    findings.must(later == 0, f"{later:.0f} runs were begun for callers who had left")
    full = sum(map(findings.judge.full, load.answers))
    findings.note(
        f"{sum(bool(each.failure) for each in load.answers)} got DEADLINE_EXCEEDED, {full} were "
        f"answered in full; {ended[_RUN] - before[_RUN]:.0f} runs meanwhile, "
        f"{ended[_ABANDONED] - before[_ABANDONED]:.0f} not begun or broken off, {later:.0f} later"
    )
    return findings.result(load, lost=["DEADLINE_EXCEEDED"])
