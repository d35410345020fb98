"""Case 3: a pod that hangs: it accepts, and never answers."""

from __future__ import annotations

import asyncio
import signal
import time

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.load import SteadyLoad, p99

_RECOVERED = 0.1
"""Seconds that the p99 without the pod may be above the p99 before. Asking a pod that hangs costs
0.25 s and more."""
_TAKES_TRAFFIC = 5
"""Calls after which it counts as in use again."""


async def run(chain: Chain) -> CaseResult:
    """Stop one pod of each kind, in turn."""
    async with chain.load() as load:
        for name in chain.plan.hanging_pods:
            await _hang(chain, load, name)
    return chain.findings.result(load)


async def _hang(chain: Chain, load: SteadyLoad, name: str) -> None:
    plan, findings = chain.plan, chain.findings

    async def ejected() -> bool:
        return not (await chain.pod_host(name)).healthy

    async def checked_out() -> bool:
        return (await chain.pod_host(name)).checked_out

    started = time.monotonic()
    await asyncio.sleep(plan.quiet)
    stopped = time.monotonic()
    chain.send(name, signal.SIGSTOP)
    try:
        at_first = await findings.until(ejected, f"{name} was not ejected while it hung", plan.hang)
        passed = f"{name} passed health checks while it hung"
        for_good = at_first + await findings.until(checked_out, passed, plan.hang)
        out = time.monotonic()
        await asyncio.sleep(max(0.0, stopped + plan.hang - out))
    finally:
        resumed = time.monotonic()
        chain.send(name, signal.SIGCONT)
    before = (await chain.pod_host(name)).requests

    async def in_use() -> bool:
        host = await chain.pod_host(name)
        return host.healthy and host.requests >= before + _TAKES_TRAFFIC

    back = await findings.until(in_use, f"{name} took no traffic again")
    quiet = p99([each for each in load.answers if started <= each.at < stopped])
    while_out = p99([each for each in load.answers if out <= each.at < resumed])
    findings.must(
        not plan.timed or while_out <= quiet + _RECOVERED,
        f"{name}: p99 {while_out:.3f} s without it, {quiet:.3f} s before",
    )
    findings.note(
        f"{name}: out after {at_first:.1f} s, for good after {for_good:.1f} s, p99 {quiet:.3f} s "
        f"before, {while_out:.3f} s without it, back after {back:.1f} s"
    )
