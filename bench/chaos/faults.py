"""What can be done to a stack: each lasts until its block ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from bench.chaos.case import Begin
from bench.chaos.chain import Chain
from bench.chaos.faulty_pod import faulty_pod
from bench.chaos.places import filled, log_disk, other_host
from bench.load import beside, closed_load
from tests.builders.redis import RunningRedis
from vireo.ops.stack.probes import grpc_probe
from vireo.ops.stack.processes import ADS, control_process
from vireo.ops.stack.settings import PodKind

CONSUMER = "consumer-1"
CROWD = 32
"""Callers who repeat at once."""
SHORT_DEADLINE = 0.005
_INNER: tuple[PodKind, ...] = ("candidate", "ranking")
"""What runs on another host, where a gateway would need an Envoy, and whose scores are checked by
others on the way to the caller."""
_TAKES_TRAFFIC = 5
"""Calls after which a pod counts as in use."""
_TAKES_UP_SECONDS = 2.0
_BAD_ORIGINS = "("
"""A setting that ends up in a route as a regular expression, and is none."""
_MAX_LETTERS = 80
_LOCK_SECONDS = 5.0
_AWAY = "_away"


def pods_numbered(chain: Chain, *numbers: int) -> list[str]:
    """Return the names of the pods of each kind that have these numbers."""
    return [f"{kind}-{number}" for number in numbers for kind in chain.settings.kinds]


def scoring(chain: Chain) -> PodKind:
    """Return the kind of pod that scores candidates."""
    return "ranking" if "ranking" in chain.settings.kinds else "slate"


@asynccontextmanager
async def killed_in_turn(chain: Chain) -> AsyncIterator[None]:
    """Kill pods in turn, each once the one before is back, and all of them."""
    kills, wanted = 0, pods_numbered(chain, *chain.plan.of((1, 2), (1,)))

    async def kill() -> None:
        nonlocal kills
        for name in cycle(wanted):
            await chain.replaced(name, signal.SIGKILL)
            kills += 1
            await asyncio.sleep(chain.plan.settle)

    async def each_once() -> bool:
        return kills >= len(wanted)

    async with beside(kill()):
        yield
        patience = len(wanted) * chain.plan.patience
        await chain.findings.until(each_once, "not all pods were killed", patience)
    chain.findings.note(f"{kills} kills")


@asynccontextmanager
async def rolling_restart(chain: Chain) -> AsyncIterator[None]:
    """Restart each pod once Envoy calls the one before again; all of it when the block begins."""
    first = pods_numbered(chain, 1)
    for name in chain.plan.of(2 * pods_numbered(chain, 1, 2), first[-1:]):
        await chain.replaced(name, signal.SIGTERM)
    yield


@asynccontextmanager
async def hanging(chain: Chain, name: str = "") -> AsyncIterator[None]:
    """Stop a process, by default the first pod that scores: it accepts, and never answers."""
    name = name or f"{scoring(chain)}-1"
    chain.stack.send(name, signal.SIGSTOP)
    try:
        yield
    finally:
        chain.stack.send(name, signal.SIGCONT)


def faulty(fault: str) -> Begin:
    """Return the fault that discovery finds a further pod which answers wrongly, and gets calls."""

    @asynccontextmanager
    async def begin(chain: Chain) -> AsyncIterator[None]:
        kinds = chain.settings.kinds
        real = {kind: f"127.0.0.1:{chain.settings.pod_ports(kind)[0]}" for kind in kinds}
        async with faulty_pod(fault, real) as address:
            places = dict.fromkeys(_INNER if fault == "nan" else kinds, address)

            async def asked() -> bool:
                return all((await chain.requests(places)).values())

            async with chain.listed(places):
                yield
                await chain.findings.until(asked, f"not every kind of pod with {fault} was asked")
                counts = (await chain.requests(places)).items()
            calls = ", ".join(f"{count:.0f} calls as {kind}" for kind, count in counts)
            chain.findings.note(calls)

    return begin


def held_down(*names: str) -> Begin:
    """Return the fault that processes are killed again and again."""
    return lambda chain: chain.held_down(names)


def all_dead(kind: PodKind) -> Begin:
    """Return the fault that every pod of a kind is dead."""
    return lambda chain: chain.held_down(chain.stack.names(kind))


def online_store(chain: Chain) -> Path:
    """Return the file in which gateways read viewers' features."""
    return chain.stack.home.features(chain.dataset) / "online.db"


@asynccontextmanager
async def without_tables(chain: Chain) -> AsyncIterator[None]:
    """Rename the tables that the gateways read, until the block ends.

    To empty the file would be no fault: a consumer of events has it in WAL mode, in which readers
    go on with the pages that they have. Nor do they wait for locks then; Redis can hang (case 17).
    """
    path = online_store(chain)
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_SECONDS)) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        tables = [name for (name,) in connection.execute(query)]
        _rename(connection, {name: name + _AWAY for name in tables})
        try:
            yield
        finally:
            _rename(connection, {name + _AWAY: name for name in tables})


def _rename(connection: sqlite3.Connection, names: Mapping[str, str]) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for old, new in names.items():
            # A consumer that was started meanwhile has added what it lacked.
            connection.execute(f'DROP TABLE IF EXISTS "{new}"')
            connection.execute(f'ALTER TABLE "{old}" RENAME TO "{new}"')


@asynccontextmanager
async def locked_store(chain: Chain) -> AsyncIterator[None]:
    """Hold SQLite's write lock, as another program would."""
    path = online_store(chain)
    with contextlib.closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


@asynccontextmanager
async def pods_change_without_control_plane(chain: Chain) -> AsyncIterator[None]:
    """Take the control plane away, kill a pod, which returns, and add one at a new address.

    Once it answers again, the new pod must be asked soon.
    """
    kind = scoring(chain)
    findings, new = chain.findings, chain.stack.further(kind)
    address, problem = f"127.0.0.1:{new.port}", grpc_probe(chain.settings.control_port, ADS)

    async def serving() -> bool:
        return not await problem()

    async with chain.further_process(new), AsyncExitStack() as listing:
        async with chain.held_down(["control"]):
            await chain.replaced(f"{kind}-1", signal.SIGKILL)
            await listing.enter_async_context(chain.listed({kind: address}))
            yield
        await findings.until(serving, "the control plane did not come back")
        took = await chain.until_used({kind: address}, "the new pod was never asked")
        limit = chain.plan.within(_TAKES_UP_SECONDS)
        findings.must(took <= limit, f"the new pod got its first call only after {took:.1f} s")
        findings.note(f"the new pod was asked {took:.1f} s after the control plane was back")


@asynccontextmanager
async def rejected_routes(chain: Chain) -> AsyncIterator[None]:
    """Run a control plane whose routes Envoy rejects in place of the stack's own.

    Envoy must go on with the last good ones, and the snapshot show why.
    """
    findings = chain.findings
    endpoints = chain.stack.home.stack / "endpoints.json"
    spec = control_process(chain.settings, chain.stack.s3, endpoints)
    origins = {"VIREO_CORS_ORIGINS": _BAD_ORIGINS}
    bad = replace(spec, name="control-bad", environment={**spec.environment, **origins})

    async def taken() -> bool:
        return (await _routes(chain)).get("state") == "ACKED"

    async def refused() -> bool:
        return (await _routes(chain)).get("state") == "NACKED"

    await findings.until(taken, "the routes were not taken")
    good = await _routes(chain)
    async with AsyncExitStack() as running:
        async with chain.held_down(["control"]):
            await running.enter_async_context(chain.further_process(bad))
        # From now on the supervisor's own finds the port taken, again and again.
        await findings.until(refused, "the snapshot shows no rejection")
        now = await _routes(chain)
        stays = now.get("version") == good.get("version")
        findings.must(stays, "the last good routes did not stay")
        findings.must(bool(now.get("words")), "the snapshot has no message of Envoy's")
        findings.note(f"rejected: {str(now.get('words'))[:_MAX_LETTERS]!r}")
        yield
    await findings.until(taken, "the good routes were not taken again")


async def _routes(chain: Chain) -> dict[str, Any]:
    """Return the edge's routes as `vireo control snapshot` shows them.

    Empty if there is no control plane, or the stack's Envoy isn't connected.
    """
    done = await chain.stack.vireo("control", "snapshot", "--json")
    for envoy in json.loads(done.stdout) if done.returncode == 0 else ():
        for resource in envoy["resources"]:
            if (resource["kind"], resource["name"]) == ("routes", "edge"):
                return dict(resource)
    return {}


@asynccontextmanager
async def host_cut_off(chain: Chain) -> AsyncIterator[None]:
    """Run pods on another host, and drop every packet for it; they must be used again afterwards.

    The pods find no S3 there, and serve the release in the cache.
    """
    with other_host(chain.settings.port_base // 100) as host:
        specs = {}
        for kind in _INNER:
            spec, name = chain.stack.further(kind), f"{kind}-elsewhere"
            there = {"VIREO_HOST": host.address, "VIREO_POD_NAME": name}
            specs[kind] = replace(spec, name=name, environment={**spec.environment, **there})
        places = {kind: f"{host.address}:{spec.port}" for kind, spec in specs.items()}

        async def out() -> bool:
            hosts = await chain.hosts()
            return not any(hosts[place].healthy for place in hosts.keys() & places.items())

        async with AsyncExitStack() as pods:
            for spec in specs.values():
                pod = chain.further_process(spec, host.address, host.enter)
                await pods.enter_async_context(pod)
            await pods.enter_async_context(chain.listed(places))
            unused = "the other host's pods were not used at first"
            await chain.until_used(places, unused, _TAKES_TRAFFIC)
            with host.cut_off():
                yield
                await chain.findings.until(out, "the cut host's pods were never taken out")
            unused = "the host's pods were not used again"
            back = await chain.until_used(places, unused, _TAKES_TRAFFIC)
            chain.findings.note(f"in use again {back:.1f} s after the network was")


@asynccontextmanager
async def killed_log(chain: Chain) -> AsyncIterator[None]:
    """Kill the log, once it is healthy; it starts again by itself."""
    await chain.until_healthy(["log"])
    chain.stack.send("log", signal.SIGKILL)
    yield


def full_log_disk(chain: Chain) -> AbstractAsyncContextManager[None]:
    """Fill the disk of the log."""
    return filled(log_disk(chain.stack.home))


def killed_consumer(chain: Chain) -> AbstractAsyncContextManager[None]:
    """Kill the consumer again and again, each time once it is healthy."""

    async def kill() -> None:
        while True:
            await chain.until_healthy([CONSUMER])
            chain.stack.send(CONSUMER, signal.SIGKILL)
            await asyncio.sleep(chain.plan.settle)

    return beside(kill())


def _redis(chain: Chain) -> RunningRedis:
    assert chain.redis is not None, "the stack has Redis"
    return chain.redis


@asynccontextmanager
async def hanging_redis(chain: Chain) -> AsyncIterator[None]:
    """Let Redis take connections, and answer nothing."""
    _redis(chain).hang()
    try:
        yield
    finally:
        _redis(chain).go_on()


@asynccontextmanager
async def killed_redis(chain: Chain) -> AsyncIterator[None]:
    """Kill Redis; at the block's end it comes back as it was before any event."""
    _redis(chain).kill()
    try:
        yield
    finally:
        await asyncio.to_thread(_redis(chain).start)


@asynccontextmanager
async def short_deadlines(chain: Chain) -> AsyncIterator[None]:
    """Let callers ask who wait for 5 ms."""
    async with chain.load(chain.plan.of(200.0, 50.0), SHORT_DEADLINE):
        yield


def crowd(chain: Chain) -> AbstractAsyncContextManager[None]:
    """Let callers ask who repeat at once, also what was refused."""

    async def ask() -> None:
        await closed_load(chain.settings.edge, chain.viewers, CROWD, math.inf)

    return beside(ask())
