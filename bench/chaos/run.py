"""Run the cases on a stack of its own, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

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
    redis_away,
    restarts,
    short_deadline,
    store_locked,
)
from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult, Findings, Judge
from bench.chaos.home import prepared, prepared_with
from bench.chaos.plan import ChaosPlan
from bench.chaos.small_disk import small_log_disk
from bench.stack import OwnStack
from bench.valkey import Valkey, running_valkey
from server.errors import VireoError
from server.home import Home
from training.features.watches import load_watches

_MIN_RATE = 5.0
_KNOWN_VIDEOS, _UNKNOWN_VIDEOS = 200, 50


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
}
"""By number."""


def run_chaos(
    home: Home, dataset: str, numbers: Sequence[int], plan: ChaosPlan, console: Console
) -> Iterator[CaseResult]:
    """Run cases by number, and yield each one's result when it is there.

    Raises:
        VireoError: the stack can't be set up or started.
    """
    on_redis = [number for number in numbers if CASES[number].on_redis]
    if on_sqlite := [number for number in numbers if number not in on_redis]:
        stack = prepared(home, dataset, console)
        with small_log_disk(stack.home), stack.running():
            yield from _run_all(stack, dataset, on_sqlite, plan, console)
    if on_redis:
        with running_valkey(home.root / "bench" / "chaos" / "valkey") as valkey:
            settings = {"VIREO_ONLINE_STORE": "redis", "VIREO_REDIS_URL": valkey.url}
            stack = prepared_with(home, dataset, console, "chaos", settings)
            valkey.save()
            with stack.running():
                yield from _run_all(stack, dataset, on_redis, plan, console, valkey)


def _run_all(
    stack: OwnStack,
    dataset: str,
    numbers: Sequence[int],
    plan: ChaosPlan,
    console: Console,
    valkey: Valkey | None = None,
) -> Iterator[CaseResult]:
    judge = _judge(stack.home, dataset, plan.viewers)
    known = frozenset[str]().union(*judge.watched.values())
    videos = [*sorted(known)[:_KNOWN_VIDEOS], *map("unheard-of-{}".format, range(_UNKNOWN_VIDEOS))]
    for number in numbers:
        progress = partial(_print, console, number)
        log = stack.home.logs / "failures.jsonl"
        findings = Findings(number, judge, log, plan.patience, progress)
        chain = Chain(stack, dataset, list(judge.watched), plan, findings, videos, valkey)
        progress(CASES[number].title)
        if number == numbers[0]:
            plan = asyncio.run(_affordable(chain))
        yield asyncio.run(_run(number, replace(chain, plan=plan)))


def _print(console: Console, number: int, line: str) -> None:
    console.print(f"{number}: {line}", soft_wrap=True)


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


def _judge(home: Home, dataset: str, viewers: int) -> Judge:
    """Return the judge of the viewers to ask for: the data set's first, then strangers."""
    watches = load_watches(home, dataset)
    watches = watches[watches["part"] != "test"]  # gateways don't know what is held out
    by_viewer = watches.groupby("viewer_id", sort=False)["video_id"].agg(frozenset).head(viewers)
    known = {str(viewer): watched for viewer, watched in by_viewer.items()}
    strangers = (f"stranger-{number}" for number in range(viewers - len(known)))
    return Judge({**known, **dict.fromkeys(strangers, frozenset())})
