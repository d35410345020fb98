"""Case 3: a pod that hangs: it accepts, and never answers."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.load import SteadyLoad, p99

_RECOVERED = 0.1
"""Maximum seconds by which p99 without the pod is above that before. A call to a pod that hangs
costs 0.25 s and more."""
_TAKES_TRAFFIC = 5
"""Calls after which it counts as in use again."""


async def run(chain: Chain) -> CaseResult:
    """Stop one pod of each kind, in turn."""
    async with chain.load() as load:
        for name in chain.plan.hanging_pods:
            await _hang(chain, load, name)
    return chain.findings.result(load)


@contextmanager
def stopped(chain: Chain, name: str) -> Iterator[None]:
    """Have a process hang until the block ends."""
    chain.send(name, signal.SIGSTOP)
    try:
        yield
    finally:
        chain.send(name, signal.SIGCONT)


async def _hang(chain: Chain, load: SteadyLoad, name: str) -> None:
    plan, findings = chain.plan, chain.findings
    started = time.monotonic()
    await asyncio.sleep(plan.quiet)
    with stopped(chain, name):
        since = time.monotonic()
        kept = f"{name} was not ejected while it hung"
        at_first = await chain.until_pod(name, lambda h: not h.healthy, kept, plan.hang)
        passed = f"{name} passed health checks while it hung"
        checked = await chain.until_pod(name, lambda h: h.checked_out, passed, plan.hang)
        out = time.monotonic()
        await asyncio.sleep(max(0.0, since + plan.hang - out))
        resumed = time.monotonic()
    enough = (await chain.pod_host(name)).requests + _TAKES_TRAFFIC
    back = await chain.until_pod(
        name, lambda h: h.healthy and h.requests >= enough, f"{name} took no traffic again"
    )
    quiet = p99([each for each in load.answers if started <= each.at < since])
    while_out = p99([each for each in load.answers if out <= each.at < resumed])
    findings.must(
        not plan.timed or while_out <= quiet + _RECOVERED,
        f"{name}: p99 {while_out:.3f} s without it, {quiet:.3f} s before",
    )
    findings.note(
        f"{name}: out after {at_first:.1f} s, for good after {at_first + checked:.1f} s, p99 "
        f"{quiet:.3f} s before, {while_out:.3f} s without it, back after {back:.1f} s"
    )
