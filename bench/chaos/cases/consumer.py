"""Case 13: the consumer of events is killed, and started twice."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import replace

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.chaos.replay import opened_replay
from bench.chaos.views import counted
from bench.live.site import event, ids, opened_site
from bench.load import PAGE
from vireo.ops.stack.nats import reachable_log
from vireo.ops.stack.processes import ProcessSpec, consumer_processes
from vireo.server.consumer.follow import STANDBY_SECONDS
from vireo.v1 import event_pb2

_NAME = "consumer-1"
_APPLIES = "vireo_consumer_lease_held"


async def run(chain: Chain) -> CaseResult:
    """Kill it again and again, then start a second one beside it."""
    plan, findings = chain.plan, chain.findings
    async with opened_replay(chain) as replay:
        async with chain.load() as load, chain.recorder() as recorder:
            await asyncio.sleep(plan.quiet)
            effects = [await _killed(chain) for _ in range(plan.consumer_kills)]
            findings.note(f"plays take effect {max(effects):.1f} s after a kill at most")
            await _twice(chain)
            await asyncio.sleep(plan.settle)
        await replay.check(recorder)
    return findings.result(load)


async def _killed(chain: Chain) -> float:
    """Kill the consumer; return the seconds until a play from then on is in the slate."""
    plan, findings = chain.plan, chain.findings
    await chain.until_healthy([_NAME])
    killed = time.monotonic()
    chain.send(_NAME, signal.SIGKILL)
    await _effect(chain)
    took = time.monotonic() - killed
    limit = plan.within(STANDBY_SECONDS)
    findings.must(took <= limit, f"a play took effect only {took:.1f} s after a kill")
    findings.progress(f"{_NAME} was killed; a play took effect {took:.1f} s after it")
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

        await chain.findings.until(gone, "a play never took effect")


async def _twice(chain: Chain) -> None:
    """Run a second consumer of the same partition: one stands by, and goes on if the other dies."""
    findings, second = chain.findings, _second(chain)
    ports = {"the first": chain.process(_NAME).port, "the second": second.port}

    async def one_applies() -> bool:
        return sum([(await counted([port]))[_APPLIES] for port in ports.values()]) == 1

    async with chain.further_process(second):
        await findings.until(one_applies, "of two consumers of one partition none stands by")
        await _effect(chain)
        chain.send(_NAME, signal.SIGKILL)
        killed = time.monotonic()
        await _effect(chain)
        findings.note(
            f"with a second one a play takes effect {time.monotonic() - killed:.1f} s later"
        )
        await chain.until_healthy([_NAME])
        await findings.until(one_applies, "after a kill none of two consumers stands by")
    await _effect(chain)


def _second(chain: Chain) -> ProcessSpec:
    """Return a consumer like the stack's own, at another port."""
    log = reachable_log(chain.settings)
    two = log.model_copy(update={"event_partitions": 2})
    first, other = consumer_processes(chain.settings, chain.stack.s3, two)
    partition = "VIREO_EVENT_PARTITION"
    mistaken = {partition: first.environment[partition], "VIREO_EVENT_PARTITIONS": "1"}
    return replace(other, name="consumer-twice", environment={**other.environment, **mistaken})
