"""Cases of too many calls: floods, crowds, callers in a hurry, and hostile ones."""

from __future__ import annotations

import asyncio
import math
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.chaos.attackers import Attackers
from bench.chaos.chain import Chain
from bench.chaos.faults import CROWD
from bench.chaos.findings import CaseResult, Findings
from bench.chaos.views import active_requests, counted
from bench.load import PAGE, Answer, beside, closed_load, p99
from bench.speed.h2load import LoadResult, Prepared, Target
from vireo.v1 import recommendation_pb2

_TIMES = 4.0
"""Load of an overload over the sustainable one."""
_LIGHT = 0.2
"""Share of the sustainable load that counts as no overload."""
_MAX_ACCEPTED, _MAX_SHED = 0.25, 0.15
"""Maximum p99 in seconds of probes that are accepted, and that are shed."""
_MEMORY_TIMES = 1.2
_BACK_SECONDS = 5.0
_SHED, _LATE = "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"
_SHED_BY_PODS = "vireo_rpcs_shed_total"
_SAMPLE = 0.5
_SENDERS = 2
"""Viewers that the flood asks for, a process of h2load each."""
_METHOD = "vireo.v1.RecommendationService/Recommend"

_RUN, _ABANDONED = "vireo_work_run_total", "vireo_work_abandoned_total"
_UNDER_WAY = 0.5
"""Seconds within which what runs when its caller leaves must end."""

_HONEST_SHARE, _ABANDONED_SHARE = 0.2, 0.3
"""Shares of the sustainable load; the rest is left to the attackers, which share the machine."""
_GAUGES = ("vireo_rpcs_in_flight", "vireo_streams_open", "vireo_work_queued")

_HURRIED = 40
_DEADLINES = (0.002, 0.08)
"""Shortest and longest deadline of callers in a hurry, seconds."""
_MAX_LOST = {8: 0.0, 16: 0.02}
"""Maximum share of the calls of so many callers that may be lost after an overload."""
_EASY = 8
"""As many callers lose none on any machine, so that also a plan without times judges them."""

_Overload = Callable[[Chain], Awaitable[list[Answer]]]


async def flood(chain: Chain) -> CaseResult:
    """Send four times the sustainable load.

    Probes at a fifth of the sustainable load are judged, first alone, then in a flood from h2load,
    which leaves the processors to the stack.
    """
    findings, plan = chain.findings, chain.plan
    ports = chain.pods().values()
    sustainable = await chain.sustainable_rate()
    findings.progress(f"{sustainable:.0f} requests a second are sustainable")
    async with chain.load(rate=_LIGHT * sustainable) as light:
        await asyncio.sleep(2 * plan.quiet)
    memory, before = [chain.stack.memory()], await counted(ports)
    async with (
        _flooded(chain, (_TIMES - _LIGHT) * sustainable) as flood,
        chain.load(rate=_LIGHT * sustainable) as load,
    ):
        while not flood.done():
            await asyncio.sleep(_SAMPLE)
            memory.append(chain.stack.memory())
    over, counts = time.monotonic(), await counted(ports)
    async with chain.load(rate=_LIGHT * sustainable) as after:
        back = await findings.until_full(after, over)
    limit = plan.within(_BACK_SECONDS)
    findings.must(back <= limit, f"not back to normal {back:.1f} s after")
    growth = max(memory) / memory[0]
    findings.must(growth <= _MEMORY_TIMES, f"memory grew to {growth:.2f} times")
    _judge(findings, light.answers, load.answers, timed=plan.timed)
    findings.note(
        f"{sustainable:.0f}/s sustainable, {flood.result().requests} calls in the flood, memory "
        f"{growth:.2f} times, normal after {back:.1f} s, "
        f"{counts[_SHED_BY_PODS] - before[_SHED_BY_PODS]:.0f} calls shed by pods of all kinds"
    )
    return findings.result(light, load, after, lost=[_SHED])


@asynccontextmanager
async def flooded(chain: Chain) -> AsyncIterator[None]:
    """Send four times the sustainable load for the time of the plan, and wait for its end."""
    async with _flooded(chain, _TIMES * await chain.sustainable_rate()):
        yield


@asynccontextmanager
async def _flooded(chain: Chain, rate: float) -> AsyncIterator[asyncio.Task[LoadResult]]:
    """Yield the task that sends `rate` requests a second for the time of the plan."""
    with TemporaryDirectory() as name:
        folder, prepared = Path(name), []
        for number, viewer in enumerate(chain.viewers[:_SENDERS]):
            request = recommendation_pb2.RecommendRequest(viewer_id=viewer, page_size=PAGE)
            answer = recommendation_pb2.RecommendResponse()  # not compared
            deadline = f"grpc-timeout: {chain.plan.deadline:.0f}S"
            prepared.append(Prepared.of(folder / f"viewer-{number}", request, answer, [deadline]))
        url = f"http://{chain.settings.edge}/{_METHOD}"
        requests = int(rate * chain.plan.overload)
        load = Target("the edge", url, prepared, folder, senders=_SENDERS).load
        flood = asyncio.create_task(load(0, _SENDERS, requests, rate, max_wrong=math.inf))
        try:
            yield flood
        finally:
            await flood


def _judge(findings: Findings, light: list[Answer], overload: list[Answer], *, timed: bool) -> None:
    """Compare the answers under overload with those of a light load."""
    accepted = [each for each in overload if not each.failure]
    shed = [each for each in overload if each.failure.startswith(_SHED)]
    degraded = sum(bool(each.degradations) for each in accepted)
    unloaded, under_load, refused = p99(light), p99(accepted), p99(shed)
    findings.must(bool(shed or degraded), "nothing was shed or degraded: it was no overload")
    findings.must(bool(accepted), "nothing was accepted")
    if timed:
        late = f"p99 {under_load:.3f} s under overload, {unloaded:.3f} s without"
        findings.must(under_load <= _MAX_ACCEPTED, late)
        soon = math.isnan(refused) or refused <= _MAX_SHED
        findings.must(soon, f"shedding took {refused:.3f} s (p99)")
    findings.note(
        f"{len(accepted)} accepted of {len(overload)}, {degraded} of them degraded, p99 "
        f"{under_load:.3f} s ({unloaded:.3f} s without overload); {len(shed)} shed, p99 "
        f"{refused:.3f} s"
    )


async def short_deadlines(chain: Chain) -> CaseResult:
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
        f"{sum(bool(each.failure) for each in load.answers)} got {_LATE}, {full} were "
        f"answered in full; {ended[_RUN] - before[_RUN]:.0f} runs meanwhile, "
        f"{ended[_ABANDONED] - before[_ABANDONED]:.0f} not begun or broken off, {later:.0f} later"
    )
    return findings.result(load, lost=[_LATE])


async def hostile_callers(chain: Chain) -> CaseResult:
    """Attack for as long as the abandoned calls take; afterwards nothing may be left of it."""
    findings, plan = chain.findings, chain.plan
    sustainable = await chain.sustainable_rate()
    ports = chain.pods().values()
    attackers = Attackers(chain.settings.edge, chain.viewers)
    async with chain.load(rate=_HONEST_SHARE * sustainable) as load:
        await asyncio.sleep(plan.quiet)
        async with attackers:
            await _attack(attackers, chain, sustainable)
            during = await counted(ports)
        await asyncio.sleep(plan.settle)

    async def nothing_left() -> bool:
        left = await counted(ports)
        at_edge = await active_requests(chain.settings.admin_port)
        return not any(left[name] for name in _GAUGES) and not at_edge

    still = "calls or streams are still counted after the last ended"
    took = await findings.until(nothing_left, still)
    ended = attackers.ended
    findings.must(ended[f"watch {_SHED}"] > 0 or plan.watchers < 100, "no watch refused")
    findings.note(
        f"{during['vireo_streams_open']:.0f} streams at pods while {plan.watchers} watched; all "
        f"counters at zero after {took:.1f} s; " + ", ".join(f"{v} {k}" for k, v in ended.items())
    )
    return findings.result(load)


@asynccontextmanager
async def attacked(chain: Chain) -> AsyncIterator[None]:
    """Let hostile callers open, hold and abandon calls."""
    sustainable = await chain.sustainable_rate()
    async with (
        Attackers(chain.settings.edge, chain.viewers) as attackers,
        beside(_attack(attackers, chain, sustainable)),
    ):
        yield


async def _attack(attackers: Attackers, chain: Chain, sustainable: float) -> None:
    """Open and abandon all calls; those that stay open do so until the attackers leave."""
    plan = chain.plan
    await asyncio.gather(
        attackers.watch(plan.watchers, plan.attack_rate),
        attackers.stay_silent(plan.silent_calls, plan.attack_rate),
        attackers.abandon(plan.abandoned_calls, _ABANDONED_SHARE * sustainable),
    )


async def overloads_end(chain: Chain) -> CaseResult:
    """Cause each overload, quiet and beside a busy core, and let few callers ask after it.

    Callers who repeat at once, also what was refused, could keep an overload alive. So after each
    one few such callers ask, from its end on, and none of their calls may be lost once it is over.
    """
    answers: list[Answer] = []
    for place, busy in (("quiet", nullcontext()), ("beside a busy core", _busy_core())):
        with busy:
            for name, overload in _overloads(chain).items():
                during = await overload(chain)
                rows = []
                if during:
                    whole = sum(map(chain.findings.judge.full, during))
                    rows.append(f"{whole} of {len(during)} calls answered in full")
                for callers in _MAX_LOST:
                    after = await _asked_after(chain, callers)
                    rows.append(_judged(chain, callers, after, f"{place}, {name}"))
                    during += after
                chain.findings.note(f"{place}, {name}: {', '.join(rows)}")
                answers += during
    return chain.findings.result(answers=answers, lost=[_SHED, _LATE])


async def _asked_after(chain: Chain, callers: int) -> list[Answer]:
    """Return the answers to callers who ask from now on."""
    plan, edge = chain.plan, chain.settings.edge
    return await closed_load(edge, chain.viewers, callers, plan.ended, further=plan.ended_requests)


def _judged(chain: Chain, callers: int, answers: list[Answer], after: str) -> str:
    """Judge the last answers to callers who asked after an overload; return what they were."""
    findings, plan = chain.findings, chain.plan
    judged = sorted(answers, key=lambda each: each.at)[-plan.ended_requests :]
    lost = sum(bool(findings.judge.fault(each)) for each in judged)
    degraded = sum(bool(each.degradations) for each in judged)
    row = f"{callers} callers lost {lost} of {len(judged)}"
    if plan.timed or callers == _EASY:
        allowed = _MAX_LOST[callers] * len(judged)
        findings.must(lost <= allowed, f"after the overload ({after}) {row}")
    return f"{row} from {plan.ended:g} s on ({degraded} degraded)"


def _overloads(chain: Chain) -> dict[str, _Overload]:
    edge, viewers, plan = chain.settings.edge, chain.viewers, chain.plan
    chance = random.Random(0)  # noqa: S311

    async def hurry(_: Chain) -> list[Answer]:
        return await closed_load(
            edge, viewers, _HURRIED, plan.hurry, deadline=lambda: chance.uniform(*_DEADLINES)
        )

    async def flood_alone(chain: Chain) -> list[Answer]:
        async with flooded(chain):
            return []  # its answers aren't kept

    overloads: dict[str, _Overload] = {
        f"{CROWD} callers at once": lambda _: closed_load(edge, viewers, CROWD, plan.crowd),
        f"{_HURRIED} callers in a hurry": hurry,
    }
    # By h2load, which may be missing elsewhere.
    return overloads | ({"a flood": flood_alone} if plan.timed else {})


@contextmanager
def _busy_core() -> Iterator[None]:
    """Keep one core busy with a process of normal priority during the block."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
