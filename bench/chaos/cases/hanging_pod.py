"""Case 3: a pod that hangs: it accepts, and never answers."""

from __future__ import annotations

import asyncio
import math
import signal
import time

from bench.chaos.chain import Chain
from bench.chaos.result import CaseResult, Findings
from bench.chaos.waiting import seconds_until
from bench.load import SteadyLoad, p99

CASE = 3
TITLE = "a pod that hangs (SIGSTOP)"

_RECOVERED = 0.1
"""Seconds that the p99 without the pod may be above the p99 before. Asking a pod that hangs costs
0.25 s and more."""
_TAKES_TRAFFIC = 5
"""Calls after which it counts as in use again."""


async def run(chain: Chain) -> CaseResult:
    """Stops one pod of each kind, in turn."""
    findings = chain.findings(CASE)
    async with chain.load() as load:
        for name in chain.plan.hanging_pods:
            await _hang(chain, load, name, findings)
    return findings.result(load)


async def _hang(chain: Chain, load: SteadyLoad, name: str, findings: Findings) -> None:
    plan = chain.plan
    started = time.monotonic()
    await asyncio.sleep(plan.quiet)
    stopped = time.monotonic()
    chain.send(name, signal.SIGSTOP)
    try:
        ejected = await seconds_until(lambda: _ejected(chain, name), plan.hang)
        findings.must(math.isfinite(ejected), f"{name} was not ejected while it hung")
        for_good = await seconds_until(lambda: _checked_out(chain, name), plan.hang)
        findings.must(math.isfinite(for_good), f"{name} passed health checks while it hung")
        out = time.monotonic()
        await asyncio.sleep(max(0.0, stopped + plan.hang - out))
    finally:
        resumed = time.monotonic()
        chain.send(name, signal.SIGCONT)
    before = (await chain.pod_host(name)).requests

    async def in_use() -> bool:
        host = await chain.pod_host(name)
        return host.healthy and host.requests >= before + _TAKES_TRAFFIC

    back = await seconds_until(in_use, plan.patience)
    findings.must(math.isfinite(back), f"{name} took no traffic again")
    quiet = p99([each for each in load.answers if started <= each.at < stopped])
    while_out = p99([each for each in load.answers if out <= each.at < resumed])
    if plan.timed:
        findings.must(
            while_out <= quiet + _RECOVERED,
            f"{name}: p99 {while_out:.3f} s without it, {quiet:.3f} s before",
        )
    text = (
        f"{name}: out after {ejected:.1f} s, for good after {ejected + for_good:.1f} s, p99 "
        f"{quiet:.3f} s before, {while_out:.3f} s without it, back after {back:.1f} s"
    )
    findings.note(text)
    chain.tell(text)


async def _ejected(chain: Chain, name: str) -> bool:
    return not (await chain.pod_host(name)).healthy


async def _checked_out(chain: Chain, name: str) -> bool:
    return (await chain.pod_host(name)).checked_out
