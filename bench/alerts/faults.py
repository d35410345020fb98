"""The faults of the chaos cases, each with the alert that must fire and the cause to be named."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle

from bench.beside import beside
from bench.chaos.attackers import Attackers
from bench.chaos.cases.catching_up import flood_of, record
from bench.chaos.cases.control_plane import bad_control_plane
from bench.chaos.cases.faulty_pods import listed_faulty
from bench.chaos.cases.full_disk import filled
from bench.chaos.cases.hanging_pod import stopped
from bench.chaos.cases.hostile_callers import attack
from bench.chaos.cases.missing_parts import dead, without_tables
from bench.chaos.cases.network_cut import pods_elsewhere
from bench.chaos.cases.overload import TIMES, flooded
from bench.chaos.cases.overload_ends import CROWD
from bench.chaos.cases.redis_away import hanging, killed
from bench.chaos.cases.store_locked import locked_store
from bench.chaos.chain import Chain
from bench.chaos.other_host import other_host
from bench.chaos.small_disk import log_disk
from bench.load import closed_load
from bench.valkey import Valkey
from vireo.server.errors import VireoError

_CONSUMER = "consumer-1"
_HANGS = "ranking-1"


@dataclass(frozen=True)
class Fault:
    """One fault; a case may have several."""

    case: int
    title: str
    begun: Callable[[Chain], AbstractAsyncContextManager[None]]
    """Has it last until the block ends; whatever it needs beforehand is done when that begins."""
    alert: str
    """What must fire; empty if nothing may."""
    cause: str
    """What `vireo doctor` must name first, as long as it lasts."""
    on_redis: bool = False
    """Whether it needs a stack with Redis."""
    needs_peace: bool = False
    """Whether a process that died shortly before would rightly be named first."""


async def _ended_in_turn(chain: Chain, names: Iterable[str], number: signal.Signals) -> None:
    for name in names:
        await chain.replaced(name, number)
        await asyncio.sleep(chain.plan.settle)


def _killed_pods(chain: Chain) -> AbstractAsyncContextManager[None]:
    return beside(_ended_in_turn(chain, cycle(chain.plan.killed_pods), signal.SIGKILL))


def _killed_gateways(chain: Chain) -> AbstractAsyncContextManager[None]:
    return beside(_ended_in_turn(chain, cycle(chain.plan.killed_gateways), signal.SIGKILL))


@asynccontextmanager
async def _restarted_pods(chain: Chain) -> AsyncIterator[None]:
    await _ended_in_turn(chain, chain.plan.restarted_pods, signal.SIGTERM)
    yield


@asynccontextmanager
async def _hanging_pod(chain: Chain) -> AsyncIterator[None]:
    with stopped(chain, _HANGS):
        yield


def _faulty(fault: str) -> Callable[[Chain], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def begun(chain: Chain) -> AsyncIterator[None]:
        async with listed_faulty(chain, fault):
            yield

    return begun


@asynccontextmanager
async def _overloaded(chain: Chain) -> AsyncIterator[None]:
    rate = TIMES * await chain.sustainable_rate()
    async with flooded(chain, rate):
        yield


def _crowded(chain: Chain) -> AbstractAsyncContextManager[None]:
    return beside(_ask_at_once(chain))


async def _ask_at_once(chain: Chain) -> None:
    await closed_load(chain.settings.edge, chain.viewers, CROWD, math.inf)


@asynccontextmanager
async def _host_cut_off(chain: Chain) -> AsyncIterator[None]:
    with other_host(chain.settings.port_base // 100) as host:
        async with pods_elsewhere(chain, host):
            with host.cut_off():
                yield


@asynccontextmanager
async def _hurried(chain: Chain) -> AsyncIterator[None]:
    async with chain.load(chain.plan.short_deadline_rate, chain.plan.short_deadline):
        yield


@asynccontextmanager
async def _attacked(chain: Chain) -> AsyncIterator[None]:
    sustainable = await chain.sustainable_rate()
    async with (
        Attackers(chain.settings.edge, chain.viewers) as attackers,
        beside(attack(attackers, chain.plan, sustainable)),
    ):
        yield


@asynccontextmanager
async def _full_log_disk(chain: Chain) -> AsyncIterator[None]:
    disk = log_disk(chain.stack.home)
    if not disk.is_mount():
        raise VireoError("the log has no disk of its own: that needs root on Linux")
    async with filled(disk):
        yield


async def _kill_consumer(chain: Chain) -> None:
    while True:
        await chain.until_healthy([_CONSUMER])
        chain.send(_CONSUMER, signal.SIGKILL)
        await asyncio.sleep(chain.plan.settle)


@asynccontextmanager
async def _far_behind(chain: Chain) -> AsyncIterator[None]:
    async with chain.held_down([_CONSUMER]), beside(record(chain, flood_of(chain))):
        yield


@asynccontextmanager
async def _store_locked(chain: Chain) -> AsyncIterator[None]:
    with locked_store(chain):
        yield


def _valkey(chain: Chain) -> Valkey:
    assert chain.valkey is not None, "the stack has Redis"
    return chain.valkey


FAULTS = (
    Fault(
        2,
        "a rolling restart",
        _restarted_pods,
        alert="",
        cause="restarted",
    ),
    Fault(9, "callers with a deadline of 5 ms", _hurried, "VireoShortDeadlines", "short-deadlines"),
    Fault(3, "a pod hangs", _hanging_pod, "VireoPodHangs", "pod-hangs"),
    Fault(
        4,
        "a pod answers UNAVAILABLE",
        _faulty("unavailable"),
        "VireoRetries",
        "pod-errors",
    ),
    Fault(7, "four times the sustainable load", _overloaded, "VireoShedding", "overload"),
    Fault(18, "callers who repeat at once", _crowded, "VireoShedding", "overload"),
    Fault(4, "a pod is 50 times slower", _faulty("slow"), "VireoRetries", "pod-slow"),
    Fault(4, "a pod answers NaN", _faulty("nan"), "VireoInvalidResponses", "invalid-responses"),
    Fault(8, "a host is cut off", _host_cut_off, "VireoEndpointsMissing", "pod-unreachable"),
    Fault(10, "hostile callers", _attacked, "VireoHostileCallers", "hostile-callers"),
    Fault(12, "the log's disk is full", _full_log_disk, "VireoLogDiskFull", "log-disk-full"),
    Fault(15, "SQLite is locked", _store_locked, "VireoOnlineStoreLocked", "store-locked"),
    Fault(5, "no feature store", without_tables, "VireoNoFeatures", "no-features"),
    Fault(
        6,
        "Envoy refuses routes",
        bad_control_plane,
        "VireoEnvoyRefusesConfiguration",
        "configuration-refused",
    ),
    Fault(
        6,
        "no control plane",
        lambda chain: chain.held_down(["control"]),
        "VireoControlPlaneDown",
        "control-down",
    ),
    Fault(
        5, "no ranking pods", lambda chain: dead(chain, "ranking"), "VireoNoRanking", "no-ranking"
    ),
    Fault(
        5,
        "no candidate pods",
        lambda chain: dead(chain, "candidate"),
        "VireoNoCandidates",
        "no-candidate",
    ),
    Fault(11, "no log", lambda chain: chain.held_down(["log"]), "VireoLogDown", "log-down"),
    Fault(1, "pods are killed", _killed_pods, "VireoPodCrashes", "pod-dies", needs_peace=True),
    Fault(
        13,
        "the consumer is killed",
        lambda chain: beside(_kill_consumer(chain)),
        "VireoConsumerDown",
        "consumer-down",
        needs_peace=True,
    ),
    Fault(16, "gateways are killed", _killed_gateways, "VireoPodCrashes", "pod-dies"),
    Fault(
        14,
        "many events without a consumer",
        _far_behind,
        "VireoConsumerBehind",
        "consumer-down",
        needs_peace=True,
    ),
    Fault(
        17,
        "Redis hangs",
        lambda chain: hanging(_valkey(chain)),
        "VireoOnlineStoreDown",
        "store-down",
        on_redis=True,
    ),
    Fault(
        17,
        "Redis is killed",
        lambda chain: killed(_valkey(chain)),
        "VireoOnlineStoreDown",
        "store-down",
        on_redis=True,
    ),
)
"""In an order in which none hides the next: what processes die of comes last."""
