"""Case 14: the consumer of events is far behind, and catches up beside slates."""

from __future__ import annotations

import asyncio
import math
import time
from statistics import median

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.chaos.recorder import Recorder
from bench.chaos.replay import Replay, opened_replay
from bench.load import SteadyLoad

_NAME = "consumer-1"
_MAX_P50_TIMES = 1.5
_BATCH = 500
_EVENTS_OF_VIEWER = 20
_BACK_SECONDS = 5.0
"""A consumer that has caught up says so each second."""


async def run(chain: Chain) -> CaseResult:
    """Record many events while there is no consumer; slates must not suffer when it is back."""
    plan, findings, flood = chain.plan, chain.findings, flood_of(chain)
    async with opened_replay(chain) as replay:
        async with chain.load() as load:
            async with chain.held_down([_NAME]):
                before = await replay.position()
                await record(chain, flood)
                calm = time.monotonic()
                await asyncio.sleep(2 * plan.quiet)
            back = time.monotonic()
            began, done = await _caught_up(replay, before)
            ends = await findings.until_full(load, done)
        limit = plan.within(_BACK_SECONDS)
        findings.must(ends <= limit, f"slates were still degraded {ends:.1f} s after it")
        without, beside = _p50(load, calm, back), _p50(load, began, done)
        times = beside / without
        slow = plan.timed and not times <= _MAX_P50_TIMES
        findings.must(not slow, f"p50 was {times:.2f} times that without events")
        findings.note(
            f"{len(flood.acknowledged)} events behind: caught up in {done - began:.1f} s, p50 "
            f"{beside * 1e3:.1f} ms, {without * 1e3:.1f} ms before; slates full after {ends:.1f} s"
        )
        await replay.check(flood)
    return findings.result(load)


def flood_of(chain: Chain) -> Recorder:
    """Return a site that records events as quickly as it can, of viewers who have a few each."""
    viewers = chain.plan.behind // _EVENTS_OF_VIEWER
    return chain.recorder(rate=math.inf, viewers=viewers, size=_BATCH)


async def record(chain: Chain, flood: Recorder) -> None:
    """Return once the plan's events are recorded."""

    async def enough() -> bool:
        return len(flood.acknowledged) >= chain.plan.behind

    async with flood:
        await chain.findings.until(enough, "the events were not recorded")


async def _caught_up(replay: Replay, before: int) -> tuple[float, float]:
    """Return when the consumer applied something first, and when all was applied."""

    async def begun() -> bool:
        return await replay.position() > before

    await replay.findings.until(begun, "the consumer did not begin")
    began = time.monotonic()
    await replay.until_applied()
    return began, time.monotonic()


def _p50(load: SteadyLoad, start: float, end: float) -> float:
    """Return the median latency of the requests that left in between, in seconds."""
    seconds = [each.seconds for each in load.answers if start <= each.at < end]
    return median(seconds) if seconds else math.nan
