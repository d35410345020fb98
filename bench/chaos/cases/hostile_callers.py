"""Case 10: watchers, silent calls and abandoned calls by the thousand, without a token."""

from __future__ import annotations

import asyncio

from bench.chaos.attackers import Attackers
from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.chaos.plan import ChaosPlan
from bench.chaos.views import active_requests, counted

_HONEST_SHARE, _ABANDONED_SHARE = 0.2, 0.3
"""Shares of the sustainable load; the rest is left to the attackers, which share the machine."""
_GAUGES = ("vireo_rpcs_in_flight", "vireo_streams_open", "vireo_work_queued")


async def run(chain: Chain) -> CaseResult:
    """Attack for as long as the abandoned calls take; afterwards nothing may be left of it."""
    findings, plan = chain.findings, chain.plan
    sustainable = await chain.sustainable_rate()
    ports = chain.pods().values()
    attackers = Attackers(chain.settings.edge, chain.viewers)
    async with chain.load(rate=_HONEST_SHARE * sustainable) as load:
        await asyncio.sleep(plan.quiet)
        async with attackers:
            await attack(attackers, plan, sustainable)
            during = await counted(ports)
        await asyncio.sleep(plan.settle)

    async def nothing_left() -> bool:
        left = await counted(ports)
        at_edge = await active_requests(chain.settings.admin_port)
        return not any(left[name] for name in _GAUGES) and not at_edge

    still = "calls or streams are still counted after the last ended"
    took = await findings.until(nothing_left, still)
    ended = attackers.ended
    findings.must(ended["watch RESOURCE_EXHAUSTED"] > 0 or plan.watchers < 100, "no watch refused")
    findings.note(
        f"{during['vireo_streams_open']:.0f} streams at pods while {plan.watchers} watched; all "
        f"counters at zero after {took:.1f} s; " + ", ".join(f"{v} {k}" for k, v in ended.items())
    )
    return findings.result(load)


async def attack(attackers: Attackers, plan: ChaosPlan, sustainable: float) -> None:
    """Open and abandon all calls; those that stay open do so until the attackers leave.

    Args:
        attackers: who does it.
        plan: how many calls.
        sustainable: load of the stack, requests a second.
    """
    await asyncio.gather(
        attackers.watch(plan.watchers, plan.attack_rate),
        attackers.stay_silent(plan.silent_calls, plan.attack_rate),
        attackers.abandon(plan.abandoned_calls, _ABANDONED_SHARE * sustainable),
    )
