"""Run the cases on a stack of its own, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from bench.chaos.cases import (
    catching_up,
    consumer,
    control_plane,
    faulty_pods,
    full_disk,
    hanging_pod,
    hostile_callers,
    intake,
    log_away,
    missing_parts,
    network_cut,
    overload,
    overload_ends,
    redis_away,
    restarts,
    short_deadline,
    store_locked,
)
from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.chaos.plan import ChaosPlan
from bench.chaos.stacks import running_chain
from vireo.server.errors import VireoError
from vireo.server.home import Home

_MIN_RATE = 5.0


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong."""

    title: str
    run: Callable[[Chain], Awaitable[CaseResult]]
    on_redis: bool = False
    """Whether it needs a stack with Redis."""


CASES = {
    1: Case("kill -9 of one pod of two, each kind, repeatedly", restarts.killed),
    2: Case("rolling restart of every pod by SIGTERM", restarts.rolling),
    3: Case("a pod that hangs (SIGSTOP)", hanging_pod.run),
    4: Case("pods that answer UNAVAILABLE, slowly, or garbage", faulty_pods.run),
    5: Case("all ranking pods dead, all candidate pods dead, no feature store", missing_parts.run),
    6: Case("no control plane while pods come and go; one that Envoy rejects", control_plane.run),
    7: Case("four times the sustainable load", overload.run),
    8: Case("a host cut off: packets dropped, not refused", network_cut.run),
    9: Case("callers with a deadline of 5 ms", short_deadline.run),
    10: Case("thousands of watchers, silent calls and abandoned calls", hostile_callers.run),
    11: Case("kill -9 of the log while events come in; no log for a minute", log_away.run),
    12: Case("the log's disk is full", full_disk.run),
    13: Case("kill -9 of the consumer, repeatedly; a second one by mistake", consumer.run),
    14: Case("a consumer that is far behind", catching_up.run),
    15: Case("the online store in SQLite is locked by another writer", store_locked.run),
    16: Case("kill -9 of gateways while they record events", intake.run),
    17: Case("Redis hangs, then is killed and loses what came", redis_away.run, on_redis=True),
    18: Case("overloads that end, quiet and beside a busy core", overload_ends.run),
}
"""By number."""


def run_chaos(
    home: Home, dataset: str, numbers: Sequence[int], plan: ChaosPlan, console: Console
) -> Iterator[CaseResult]:
    """Run cases by number, and yield each one's result when it is there.

    Raises:
        VireoError: the stack can't be set up or started.
    """
    for on_redis in (False, True):
        if chosen := [number for number in numbers if CASES[number].on_redis == on_redis]:
            with running_chain(home, dataset, plan, console, on_redis=on_redis) as chain:
                yield from _run_all(chain, chosen, console)


def _run_all(chain: Chain, numbers: Sequence[int], console: Console) -> Iterator[CaseResult]:
    for number in numbers:
        case = chain.for_case(number, console)
        case.findings.progress(CASES[number].title)
        if number == numbers[0]:
            chain = replace(chain, plan=asyncio.run(_affordable(case)))
        yield asyncio.run(_run(number, replace(case, plan=chain.plan)))


async def _affordable(chain: Chain) -> ChaosPlan:
    """Return the plan with a rate that this machine sustains with ease."""
    plan, sustainable = chain.plan, await chain.sustainable_rate()
    rate = max(_MIN_RATE, min(plan.rate, plan.share * sustainable))
    chain.findings.progress(
        f"{sustainable:.0f} requests a second are sustainable; it gets {rate:.0f}"
    )
    return replace(plan, rate=rate)


async def _run(number: int, chain: Chain) -> CaseResult:
    try:
        await chain.until_well()
        return await CASES[number].run(chain)
    except VireoError as error:
        return CaseResult(number, 0, 0, 0, holds=False, note=str(error))
