"""The log alone: what is acknowledged while its servers are killed is there, once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from bench.live.plan import LivePlan
from bench.live.site import until
from bench.nats import RunningNats, running_cluster, running_nats, settings_of
from bench.speed.row import Row
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS, LogAwayError
from vireo.server.event_log.nats_connection import Connection
from vireo.server.event_log.settings import EventLogSettings

_WRITERS = 16
_KILLS = 3
_PAUSE = 0.05
_SENT_AGAIN = 10
"""Each of so many messages is sent twice."""


def measure_log(
    folder: Path, plan: LivePlan, console: Console, *, clusters: bool = True
) -> Iterator[Row]:
    """Append messages, some of them twice, and kill -9 a server again and again.

    Args:
        folder: to be emptied; the servers' files go there.
        plan: how many messages.
        console: for progress.
        clusters: whether to measure three servers, too.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    console.print("killing the log's only server while it is written")
    with running_nats(folder / "one") as server:
        yield from asyncio.run(_measure(plan, "one server", [server], _KILLS))
    if not clusters:
        return
    console.print("killing one of three servers while the log is written")
    with running_cluster(folder / "three") as servers:
        yield from asyncio.run(_measure(plan, "three servers", servers, 1))


async def _measure(
    plan: LivePlan, where: str, servers: Sequence[RunningNats], kills: int
) -> list[Row]:
    settings = settings_of(*servers, event_replicas=len(servers))
    log = JetStreamLog(settings)
    numbers = iter(range(plan.messages))
    acknowledged: set[bytes] = set()

    async def write() -> None:
        for number in numbers:
            data = b"%d" % number
            for _ in range(2 if number % _SENT_AGAIN == 0 else 1):
                await _append(log, data, plan.patience)
            acknowledged.add(data)

    async def written(count: int) -> bool:
        return len(acknowledged) >= count

    async def kill() -> None:
        for number in range(1, kills + 1):
            enough = int(number * plan.messages / (kills + 1))
            await until(partial(written, enough), "writing", plan.patience)
            victim = await leader(settings, servers)
            victim.kill()
            await asyncio.to_thread(victim.start)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(kill())
        for _ in range(_WRITERS):
            tasks.create_task(write())
    read: list[bytes] = []
    async with asyncio.timeout(plan.patience), aclosing(cast("Any", log.read(EVENTS, "0"))) as some:
        async for entries in some:
            read += [entry.data for entry in entries]
            if not entries and len(read) >= len(acknowledged):
                break
    await log.close()
    missing, twice = len(acknowledged - set(read)), len(read) - len(set(read))
    return [
        Row(f"log of {where}: acknowledged messages that a kill -9 lost", missing, bound=0),
        Row(f"log of {where}: messages that are stored twice", twice, bound=0),
    ]


async def leader(settings: EventLogSettings, servers: Sequence[RunningNats]) -> RunningNats:
    """Return the server that leads the stream of events."""
    connection = await Connection.open(settings)
    cluster = (await connection.ask("$JS.API.STREAM.INFO.vireo_events")).get("cluster", {})
    await connection.close()
    names = {each.configuration["server_name"]: each for each in servers}
    return names.get(cluster.get("leader"), servers[0])


async def _append(log: JetStreamLog, data: bytes, patience: float) -> None:
    async with asyncio.timeout(patience):
        while True:
            try:
                await log.append(EVENTS, "0", data, dedup_id=data.decode())
            except LogAwayError:
                await asyncio.sleep(_PAUSE)
            else:
                return
