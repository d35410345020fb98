"""Cases that compare latencies, or what a play changes: a pod hangs, and the consumer of events."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from statistics import median

from bench.chaos.case import check_events, until_applied
from bench.chaos.chain import Chain
from bench.chaos.faults import CONSUMER, hanging, pods_numbered, scoring
from bench.chaos.findings import CaseResult
from bench.load import PAGE, SteadyLoad, beside, p99
from bench.replay import Replay
from bench.site import Recorder, event, ids, opened_site
from bench.stack import counted
from vireo.ops.stack.nats import reachable_log
from vireo.ops.stack.probes import ProcessSpec
from vireo.ops.stack.processes import consumer_processes
from vireo.server.consumer.follow import STANDBY_SECONDS
from vireo.v1 import event_pb2

_RECOVERED = 0.1
"""Maximum seconds by which p99 without the pod is above that before. A call to a pod that hangs
costs 0.25 s and more."""
_CHECKED_OUT = "failed_active_health_check"
_TAKES_TRAFFIC = 5
"""Calls after which it counts as in use again."""
_WAITS = "another consumer has the partition"
_HELD = "vireo_consumer_lease_held"
_MAX_P50_TIMES = 1.5
_BEHIND = (100_000, 2_000)
"""Events that are recorded without a consumer, and in the short form."""
_BATCH, _EVENTS_OF_VIEWER = 500, 20
_BACK_SECONDS = 5.0
"""A consumer that has caught up says so each second."""


async def hanging_pods(chain: Chain) -> CaseResult:
    """Stop one pod of each kind, in turn."""
    async with chain.load() as load:
        every = pods_numbered(chain, 1)
        for name in chain.plan.of(every, [f"{scoring(chain)}-1"]):
            await _hang(chain, load, name)
    return chain.findings.result(load)


async def _hang(chain: Chain, load: SteadyLoad, name: str) -> None:
    plan, findings, hang = chain.plan, chain.findings, chain.plan.of(20.0, 6.0)
    started = time.monotonic()
    await asyncio.sleep(plan.quiet)
    async with hanging(chain, name):
        since = time.monotonic()
        kept = f"{name} was not ejected while it hung"
        at_first = await chain.until_pod(name, lambda h: not h.healthy, kept, hang)
        passed = f"{name} passed health checks while it hung"
        checked = await chain.until_pod(name, lambda h: _CHECKED_OUT in h.flags, passed, hang)
        out = time.monotonic()
        await asyncio.sleep(max(0.0, since + hang - out))
        resumed = time.monotonic()
    enough = (await chain.pod_host(name)).all_calls + _TAKES_TRAFFIC
    back = await chain.until_pod(
        name, lambda h: h.healthy and h.all_calls >= enough, f"{name} took no traffic again"
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


async def killed_consumers(chain: Chain) -> CaseResult:
    """Kill the consumer again and again, then start a second one beside it."""
    plan, findings = chain.plan, chain.findings
    async with chain.replay() as replay:
        async with chain.load() as load, chain.recorder() as recorder:
            await asyncio.sleep(plan.quiet)
            effects = [await _killed_consumer(chain) for _ in range(plan.of(3, 1))]
            findings.note(f"plays take effect {max(effects):.1f} s after a kill at most")
            await _two_consumers(chain)
            await asyncio.sleep(plan.settle)
        await check_events(chain, replay, recorder)
    return findings.result(load)


async def _killed_consumer(chain: Chain) -> float:
    """Kill the consumer; return the seconds until a play from then on is in the slate."""
    plan, findings = chain.plan, chain.findings
    await chain.until_healthy([CONSUMER])
    killed = time.monotonic()
    chain.stack.send(CONSUMER, signal.SIGKILL)
    await _effect(chain)
    took = time.monotonic() - killed
    limit = plan.within(STANDBY_SECONDS)
    findings.must(took <= limit, f"a play took effect only {took:.1f} s after a kill")
    findings.progress(f"{CONSUMER} was killed; a play took effect {took:.1f} s after it")
    await asyncio.sleep(plan.settle)
    return took


async def _effect(chain: Chain) -> None:
    """Let a new viewer play the first video of the slate, and wait until it leaves the slate."""
    viewer = f"newcomer-{time.time_ns()}"
    async with opened_site(chain.settings.edge, chain.plan.patience) as site:
        video = ids(await site.slate(viewer, PAGE))[0]
        await site.record([event(viewer, viewer, event_pb2.EVENT_KIND_PLAY, video)])

        async def gone() -> bool:
            return video not in ids(await site.slate(viewer, PAGE))

        # Not `removed_by`, which gives up by raising: the case would lose its counts.
        await chain.findings.until(gone, "a play never took effect")


async def _two_consumers(chain: Chain) -> None:
    """Run a second consumer of the same partition: one waits, and takes over once the other ends.

    Which one waits is open: of a batch that both have read, one commits first.
    """
    findings, second = chain.findings, _second_consumer(chain)
    ports = (chain.stack.process(CONSUMER).port, second.port)

    async def held() -> list[float]:
        return [(await counted([port]))[_HELD] for port in ports]

    async def one_holds() -> bool:
        return sum(await held()) == 1

    async with chain.further_process(second):
        await _effect(chain)
        await findings.until(one_holds, "not one consumer alone applies the partition")
        waiting = second.name if (await held())[0] else CONSUMER
        said = _WAITS in (chain.stack.home.logs / f"{waiting}.log").read_text()
        findings.must(said, f"{waiting} does not say that it waits")
        ended = time.monotonic()
        if waiting == second.name:
            chain.stack.send(CONSUMER, signal.SIGKILL)
            await _effect(chain)
            await chain.until_healthy([CONSUMER])
            await findings.until(one_holds, "not one consumer alone applies the partition")
    await _effect(chain)
    findings.note(f"{waiting} waited, and had taken over {time.monotonic() - ended:.1f} s later")


def _second_consumer(chain: Chain) -> ProcessSpec:
    """Return a consumer like the stack's own, at another port."""
    log = reachable_log(chain.settings)
    two = log.model_copy(update={"event_partitions": 2})
    first, other = consumer_processes(chain.settings, chain.stack.s3, two)
    partition = "VIREO_EVENT_PARTITION"
    mistaken = {partition: first.environment[partition], "VIREO_EVENT_PARTITIONS": "1"}
    return replace(other, name="consumer-twice", environment={**other.environment, **mistaken})


async def catching_up(chain: Chain) -> CaseResult:
    """Record many events while there is no consumer; slates must not suffer when it is back."""
    plan, findings, flood = chain.plan, chain.findings, _flood_of_events(chain)
    async with chain.replay() as replay:
        async with chain.load() as load:
            async with chain.held_down([CONSUMER]):
                before = await replay.position()
                await _record(chain, flood)
                calm = time.monotonic()
                await asyncio.sleep(2 * plan.quiet)
            back = time.monotonic()
            began, done = await _caught_up(chain, replay, before)
            ends = await findings.until_full(load, done)
        limit = plan.within(_BACK_SECONDS)
        findings.must(ends <= limit, f"slates were still degraded {ends:.1f} s after it")
        without, meanwhile = _p50(load, calm, back), _p50(load, began, done)
        times = meanwhile / without
        slow = plan.timed and not times <= _MAX_P50_TIMES
        findings.must(not slow, f"p50 was {times:.2f} times that without events")
        findings.note(
            f"{len(flood.acknowledged)} events behind: caught up in {done - began:.1f} s, p50 "
            f"{meanwhile * 1e3:.1f} ms, {without * 1e3:.1f} ms before; slates full after "
            f"{ends:.1f} s"
        )
        await check_events(chain, replay, flood)
    return findings.result(load)


@asynccontextmanager
async def far_behind(chain: Chain) -> AsyncIterator[None]:
    """Record many events while there is no consumer."""
    flood = _flood_of_events(chain)
    async with chain.held_down([CONSUMER]), beside(_record(chain, flood)):
        yield


def _flood_of_events(chain: Chain) -> Recorder:
    """Return a site that records events as quickly as it can, of viewers who have a few each."""
    viewers = chain.plan.of(*_BEHIND) // _EVENTS_OF_VIEWER
    return chain.recorder(rate=math.inf, viewers=viewers, size=_BATCH)


async def _record(chain: Chain, flood: Recorder) -> None:
    """Return once the plan's events are recorded."""

    async def enough() -> bool:
        return len(flood.acknowledged) >= chain.plan.of(*_BEHIND)

    async with flood:
        patience = 3 * chain.plan.patience
        await chain.findings.until(enough, "the events were not recorded", patience)


async def _caught_up(chain: Chain, replay: Replay, before: int) -> tuple[float, float]:
    """Return when the consumer applied something first, and when all was applied."""

    async def begun() -> bool:
        return await replay.position() > before

    await chain.findings.until(begun, "the consumer did not begin")
    began = time.monotonic()
    await until_applied(chain, replay)
    return began, time.monotonic()


def _p50(load: SteadyLoad, start: float, end: float) -> float:
    """Return the median latency of the requests that left in between, in seconds."""
    seconds = [each.seconds for each in load.answers if start <= each.at < end]
    return median(seconds) if seconds else math.nan
