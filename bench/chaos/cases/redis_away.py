"""Case 17: Redis hangs, and is killed and loses what came since it was saved."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult, degradations
from bench.chaos.replay import Replay, opened_replay
from bench.load import SteadyLoad
from bench.valkey import Valkey

_BACK_SECONDS = 20.0
"""The lease of the consumer that Redis forgot, or that could not give it back, may have to end."""
_DECLARED = {"features_missing", "features_stale"}


async def run(chain: Chain) -> CaseResult:
    """Have it hang, then kill it while events come, then once more while none comes."""
    plan, findings, valkey = chain.plan, chain.findings, chain.valkey
    if valkey is None:
        return findings.skipped("the stack has no Redis")
    async with opened_replay(chain) as replay:
        async with chain.load() as load:
            async with chain.recorder() as recorder:
                await asyncio.sleep(plan.quiet)
                await _without(chain, load, replay, "hanging", hanging(valkey))
                await _without(chain, load, replay, "killed", killed(valkey))
            await replay.until_applied()
            await _without(chain, load, replay, "killed when idle", killed(valkey))
        findings.must(not recorder.refusals, f"{len(recorder.refusals)} calls were refused")
        await replay.check(recorder)
    return findings.result(load)


async def _without(
    chain: Chain,
    load: SteadyLoad,
    replay: Replay,
    what: str,
    fault: AbstractAsyncContextManager[None],
) -> None:
    """Check that slates say so while Redis is away, and that rows follow when it is back."""
    findings = chain.findings
    async with fault:
        gone = time.monotonic()
        await asyncio.sleep(chain.plan.store_outage)
        over = time.monotonic()
    applied = await replay.until_applied(f"{what}: events were never applied again")
    ends = await findings.until_full(load, over)
    limit = chain.plan.within(_BACK_SECONDS)
    findings.must(applied <= limit, f"{what}: events were applied only {applied:.1f} s after it")
    findings.must(ends <= limit, f"{what}: slates were still degraded {ends:.1f} s after it")
    during = [each for each in load.answers if gone <= each.at and each.at + each.seconds < over]
    silent = [each for each in during if not degradations(each) & _DECLARED and not each.failure]
    findings.must(bool(during), f"{what}: nothing was answered")
    findings.must(not silent, f"{what}: {len(silent)} of {len(during)} slates did not say so")
    ended = f"{ends:.1f} s after it" if math.isfinite(ends) else "never"
    findings.note(
        f"{what}: {len(during)} slates said so, all events applied {applied:.1f} s after it, "
        f"slates full {ended}"
    )


@asynccontextmanager
async def hanging(valkey: Valkey) -> AsyncIterator[None]:
    """Have it hang until the block ends."""
    valkey.send(signal.SIGSTOP)
    try:
        yield
    finally:
        valkey.send(signal.SIGCONT)


@asynccontextmanager
async def killed(valkey: Valkey) -> AsyncIterator[None]:
    """Kill it; at the block's end it comes back as it was before any event."""
    valkey.kill()
    try:
        yield
    finally:
        await asyncio.to_thread(valkey.start)
