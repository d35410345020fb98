"""Case 7: four times as much load as the stack can take.

Probes at a fifth of the sustainable load are judged, first alone, then in a flood from h2load,
which leaves the processors to the stack.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult, Findings
from bench.chaos.views import counted
from bench.load import PAGE, Answer, p99
from bench.speed.h2load import LoadResult, Prepared, Target
from vireo.v1 import recommendation_pb2

TIMES = 4.0
_LIGHT = 0.2
"""Share of the sustainable load that counts as no overload."""
_MAX_ACCEPTED, _MAX_SHED = 0.25, 0.15
"""Maximum p99 in seconds of probes that are accepted, and that are shed."""
_MEMORY_TIMES = 1.2
_BACK_SECONDS = 5.0
_SHED = "RESOURCE_EXHAUSTED"
_SHED_BY_PODS = "vireo_rpcs_shed_total"
_SAMPLE = 0.5
_SENDERS = 2
"""Viewers that the flood asks for, a process of h2load each."""
_METHOD = "vireo.v1.RecommendationService/Recommend"


async def run(chain: Chain) -> CaseResult:
    """Find the sustainable load, and send four times as much."""
    findings, plan = chain.findings, chain.plan
    ports = chain.pods().values()
    sustainable = await chain.sustainable_rate()
    findings.progress(f"{sustainable:.0f} requests a second are sustainable")
    async with chain.load(rate=_LIGHT * sustainable) as light:
        await asyncio.sleep(2 * plan.quiet)
    memory, before = [chain.stack.memory()], await counted(ports)
    async with (
        flooded(chain, (TIMES - _LIGHT) * sustainable) as flood,
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
async def flooded(chain: Chain, rate: float) -> AsyncIterator[asyncio.Task[LoadResult]]:
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
        findings.must(
            under_load <= _MAX_ACCEPTED,
            f"p99 {under_load:.3f} s under overload, {unloaded:.3f} s without",
        )
        findings.must(
            math.isnan(refused) or refused <= _MAX_SHED,
            f"shedding took {refused:.3f} s (p99)",
        )
    findings.note(
        f"{len(accepted)} accepted of {len(overload)}, {degraded} of them degraded, p99 "
        f"{under_load:.3f} s ({unloaded:.3f} s without overload); {len(shed)} shed, p99 "
        f"{refused:.3f} s"
    )
