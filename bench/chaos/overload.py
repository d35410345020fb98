"""Cases of too many calls: floods, crowds, callers in a hurry, and hostile ones."""

from __future__ import annotations

import asyncio
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.chaos.chain import Chain
from bench.chaos.faults import CROWD, SHORT_DEADLINE
from bench.chaos.findings import CaseResult
from bench.load import PAGE, Answer, beside, closed_load, p99
from bench.speed.h2load import LoadResult, Prepared, Target
from bench.stack import counted, page_of
from vireo.v1 import recommendation_pb2
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

_TIMES = 4.0
"""Load of an overload over the sustainable one."""
_LIGHT = 0.2
"""Share of the sustainable load that counts as no overload."""
_FLOOD_SECONDS = (45.0, 5.0)
_MAX_ACCEPTED, _MAX_SHED = 75, 45
"""Maximum p99 of probes that are accepted, and that are shed, in slates at the sustainable rate: on
any machine one waits for about as many others. At 300 a second they take 0.25 s and 0.15 s."""
_MEMORY_TIMES = 1.2
_BACK_SECONDS = 5.0
_SHED, _LATE = "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"
_SAMPLE = 0.5
_SENDERS = 2
"""Viewers that the flood asks for, a process of h2load each."""
_METHOD = "/vireo.v1.RecommendationService/Recommend"

_RUN, _ABANDONED = "vireo_work_run_total", "vireo_work_abandoned_total"
_UNDER_WAY = 0.5
"""Seconds within which what runs when its caller leaves must end."""

_WATCHERS, _SILENT, _ABANDONING = (5_000, 300), (1_000, 50), (10_000, 100)
"""Health watches, calls that send no message, and calls that are abandoned; in the short form."""
_HONEST_SHARE, _ABANDONED_SHARE = 0.2, 0.3
"""Shares of the sustainable load; the rest is left to the attackers, which share the machine."""
_ATTACK_RATE = 300.0
"""Watches, and silent calls, a second."""
_CONNECTIONS = 20
_MAX_WAIT = 0.03
"""Seconds within which a call is abandoned: before, during or after its work."""
_ATTACK_DEADLINE = 600.0
_GAUGES = ("vireo_rpcs_in_flight", "vireo_streams_open", "vireo_work_queued")

_HURRIED = 40
_DEADLINES = (0.002, 0.08)
"""Shortest and longest deadline of callers in a hurry, seconds."""
_ENDED, _ENDED_CALLS = (2.0, 0.5), (320, 60)
"""Seconds after an overload from which no call of few callers may be lost, and how many calls are
judged from then on."""
_MAX_LOST = {8: 0.0, 16: 0.02}
"""Maximum share of the calls of so many callers that may be lost after an overload."""
_EASY = 8
"""As many callers lose none on any machine, so that also a plan without times judges them."""


async def flood(chain: Chain) -> CaseResult:
    """Send four times the sustainable load.

    Probes at a fifth of the sustainable load are judged, first alone, then in a flood from h2load,
    which leaves the processors to the stack.
    """
    findings, plan, ports = chain.findings, chain.plan, chain.stack.pod_ports()
    sustainable = await chain.sustainable_rate()
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
    findings.must(back <= plan.within(_BACK_SECONDS), f"not back to normal {back:.1f} s after")
    growth = max(memory) / memory[0]
    findings.must(growth <= _MEMORY_TIMES, f"memory grew to {growth:.2f} times")
    accepted = [each for each in load.answers if not each.failure]
    shed = [each for each in load.answers if each.failure.startswith(_SHED)]
    degraded = sum(bool(each.degradations) for each in accepted)
    unloaded, under_load, refused = p99(light.answers), p99(accepted), p99(shed)
    findings.must(bool(shed or degraded), "nothing was shed or degraded: it was no overload")
    findings.must(bool(accepted), "nothing was accepted")
    waited, refused_after = under_load * sustainable, refused * sustainable
    soon = waited <= _MAX_ACCEPTED and (not shed or refused_after <= _MAX_SHED)
    findings.must(soon or not plan.timed, "probes took too long")
    by_pods = counts["vireo_rpcs_shed_total"] - before["vireo_rpcs_shed_total"]
    findings.note(
        f"{len(accepted)} accepted of {len(load.answers)}, {degraded} of them degraded, p99 "
        f"{under_load:.3f} s or {waited:.0f} slates ({unloaded:.3f} s without overload); "
        f"{len(shed)} shed, p99 {refused:.3f} s or {refused_after:.0f} slates; "
        f"{flood.result().requests} calls in the flood, {by_pods:.0f} shed by "
        f"pods of all kinds; memory {growth:.2f} times; normal after {back:.1f} s"
    )
    return findings.result(light, load, after, lost=[_SHED])


@asynccontextmanager
async def flooded(chain: Chain) -> AsyncIterator[None]:
    """Send four times the sustainable load for a while, and wait for its end."""
    async with _flooded(chain, _TIMES * await chain.sustainable_rate()):
        yield


@asynccontextmanager
async def _flooded(chain: Chain, rate: float) -> AsyncIterator[asyncio.Task[LoadResult]]:
    """Yield the task that sends `rate` requests a second."""
    with TemporaryDirectory() as name:
        folder, prepared = Path(name), []
        for number, viewer in enumerate(chain.viewers[:_SENDERS]):
            request = recommendation_pb2.RecommendRequest(viewer_id=viewer, page_size=PAGE)
            answer = recommendation_pb2.RecommendResponse()  # not compared
            deadline = f"grpc-timeout: {chain.plan.deadline:.0f}S"
            prepared.append(Prepared.of(folder / f"viewer-{number}", request, answer, [deadline]))
        url = f"http://{chain.settings.edge}{_METHOD}"
        requests = int(rate * chain.plan.of(*_FLOOD_SECONDS))
        load = Target("the edge", url, prepared, folder, senders=_SENDERS).load
        flood = asyncio.create_task(load(0, _SENDERS, requests, rate, max_wrong=math.inf))
        try:
            yield flood
        finally:
            await flood


async def short_deadlines(chain: Chain) -> CaseResult:
    """Ask with a deadline of 5 ms, then check that no pod goes on working."""
    findings, plan = chain.findings, chain.plan
    ports = chain.stack.pod_ports("candidate", "ranking", "slate")
    before = await counted(ports)
    async with chain.load(plan.of(200.0, 50.0), SHORT_DEADLINE) as load:
        await asyncio.sleep(plan.of(10.0, 2.0))
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
    findings, plan, ports = chain.findings, chain.plan, chain.stack.pod_ports()
    sustainable, ended = await chain.sustainable_rate(), Counter[str]()
    async with chain.load(rate=_HONEST_SHARE * sustainable) as load:
        await asyncio.sleep(plan.quiet)
        async with _attackers(chain, sustainable, ended) as attack:
            await attack
            streams = (await counted(ports))["vireo_streams_open"]
        await asyncio.sleep(plan.settle)

    async def nothing_left() -> bool:
        left, name = await counted(ports), "http.edge.downstream_rq_active"
        page = await page_of(chain.settings.admin_port, f"stats?filter=^{name}$")
        return not any(left[gauge] for gauge in _GAUGES) and page.strip() == f"{name}: 0"

    still = "calls or streams are still counted after the last ended"
    took = await findings.until(nothing_left, still)
    findings.must(ended[f"watch {_SHED}"] > 0, "no watch refused")
    findings.note(
        f"{streams:.0f} streams at pods while {plan.of(*_WATCHERS)} watched; all counters at zero "
        f"after {took:.1f} s; " + ", ".join(f"{v} {k}" for k, v in ended.items())
    )
    return findings.result(load)


@asynccontextmanager
async def attacked(chain: Chain) -> AsyncIterator[None]:
    """Let hostile callers open, hold and abandon calls."""
    sustainable = await chain.sustainable_rate()
    async with _attackers(chain, sustainable, Counter()) as attack, beside(attack):
        yield


@asynccontextmanager
async def _attackers(
    chain: Chain, sustainable: float, ended: Counter[str]
) -> AsyncIterator[Coroutine[Any, Any, None]]:
    """Yield an attack by callers without a token, with forged addresses; at the end all leave.

    It opens and abandons all calls; those that stay open do so until the block ends. `ended` gets
    how many calls ended by kind and status.
    """
    plan, draw = chain.plan, random.Random(0)  # noqa: S311
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(chain.settings.edge, options) for _ in range(_CONNECTIONS)
    ]

    async def held(kind: str, call: Any) -> None:
        try:
            ended[f"{kind} {(await call.code()).name}"] += 1
        finally:
            call.cancel()

    async def watch(channel: grpc.aio.Channel, metadata: Any) -> None:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        await held("watch", stub.Watch(health_pb2.HealthCheckRequest(), metadata=metadata))

    async def stay_silent(channel: grpc.aio.Channel, metadata: Any) -> None:
        method: Any = channel.stream_unary(_METHOD)
        timeout = draw.choice((_ATTACK_DEADLINE, None))
        await held("silent", method(timeout=timeout, metadata=metadata))

    async def abandon(channel: grpc.aio.Channel, metadata: Any) -> None:
        stub: Any = RecommendationServiceStub(channel)
        request = recommendation_pb2.RecommendRequest(viewer_id=draw.choice(chain.viewers))
        call = stub.Recommend(request, timeout=_ATTACK_DEADLINE, metadata=metadata)
        await asyncio.sleep(draw.uniform(0, _MAX_WAIT))
        call.cancel()
        await held("abandoned", call)

    tasks = set[asyncio.Task[None]]()

    async def paced(
        begin: Callable[[grpc.aio.Channel, Any], Coroutine[Any, Any, None]], count: int, rate: float
    ) -> None:
        start = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
            address = ".".join(str(draw.randrange(1, 255)) for _ in range(4))
            metadata = (("x-forwarded-for", address),)
            tasks.add(asyncio.create_task(begin(channels[number % _CONNECTIONS], metadata)))

    async def attack() -> None:
        await asyncio.gather(
            paced(watch, plan.of(*_WATCHERS), _ATTACK_RATE),
            paced(stay_silent, plan.of(*_SILENT), _ATTACK_RATE),
            paced(abandon, plan.of(*_ABANDONING), _ABANDONED_SHARE * sustainable),
        )

    try:
        yield attack()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()


async def overloads_end(chain: Chain) -> CaseResult:
    """Cause each overload, quiet and beside a busy core, and let few callers ask after it.

    Callers who repeat at once, also what was refused, could keep an overload alive. So after each
    one few such callers ask, from its end on, and none of their calls may be lost once it is over.
    """
    edge, viewers, plan, findings = chain.settings.edge, chain.viewers, chain.plan, chain.findings
    chance = random.Random(0)  # noqa: S311

    async def flood_alone() -> list[Answer]:
        async with flooded(chain):
            return []  # its answers aren't kept

    ask, hasty = partial(closed_load, edge, viewers), partial(chance.uniform, *_DEADLINES)
    overloads: dict[str, Callable[[], Awaitable[list[Answer]]]] = {
        f"{CROWD} callers at once": partial(ask, CROWD, plan.of(10.0, 1.0)),
        f"{_HURRIED} callers in a hurry": partial(
            ask, _HURRIED, plan.of(25.0, 2.0), deadline=hasty
        ),
    }
    if plan.timed:  # by h2load, which may be missing elsewhere
        overloads["a flood"] = flood_alone
    answers: list[Answer] = []
    places = (("quiet", nullcontext()), ("beside a busy core", _busy_core()))
    for place, busy in plan.of(places, places[:1]):
        with busy:
            for name, overload in overloads.items():
                during = await overload()
                whole = sum(map(findings.judge.full, during))
                rows = [f"{whole} of {len(during)} calls answered in full"] if during else []
                for callers, share in _MAX_LOST.items():
                    seconds, calls = plan.of(*_ENDED), plan.of(*_ENDED_CALLS)
                    after = await ask(callers, seconds, further=calls)
                    judged = sorted(after, key=lambda each: each.at)[-calls:]
                    lost = sum(bool(findings.judge.fault(each)) for each in judged)
                    rows.append(f"{callers} callers lost {lost} of {len(judged)}")
                    holds = lost <= share * len(judged) or not (plan.timed or callers == _EASY)
                    findings.must(holds, f"after the overload ({place}, {name}) {rows[-1]}")
                    during += after
                findings.note(f"{place}, {name}: {', '.join(rows)}")
                answers += during
    return findings.result(answers=answers, lost=[_SHED, _LATE])


@contextmanager
def _busy_core() -> Iterator[None]:
    """Keep one core busy with a process of normal priority during the block."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
