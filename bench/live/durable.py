"""Events through the edge while every process of their way is killed: the rows of a clean run."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from bench.live.site import Site, event, in_batches, opened_site, until
from bench.live.stack import LiveStack
from bench.replay import KINDS, PAST_SECONDS, STORE_SECONDS, differing, event_ids, logged
from bench.speed.row import Row
from vireo.server.event_log.jetstream import opened_log
from vireo.server.event_log.log import EVENTS, LogAwayError
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import open_rows
from vireo.v1 import event_pb2

_SEED = 20
_VIEWERS = 2_000
_BATCH = 500
_WRITERS = 4
_SENT_AGAIN = 0.1
"""Share of the batches that are sent twice, in another order: other messages of the same events."""

Fault = Callable[[], Awaitable[None]]


async def measure_durable(
    live: LiveStack, where: str, log_settings: EventLogSettings, faults: Sequence[Fault]
) -> list[Row]:
    """Record events with duplicates and disorder, and let each fault happen in between.

    Args:
        live: the stack.
        where: which log it has, for the rows' names.
        log_settings: how to reach the log.
        faults: each returns when what it has killed is back.
    """
    events = _events(live)
    batches = shuffled(events)
    written = await _record_all(live, batches, faults)
    live.console.print(f"{len(events)} events recorded with {written} repeated calls")
    async with opened_log(log_settings) as log:
        partitions = range(log_settings.event_partitions)
        rows = open_rows(live.features, STORE_SECONDS)

        async def applied() -> bool:
            try:
                ends = [await log.end(EVENTS, str(each)) for each in partitions]
            except LogAwayError:  # a cluster may still be choosing who leads
                return False
            return all(
                rows.position(each).sequence >= end
                for each, end in zip(partitions, ends, strict=True)
            )

        caught_up = await until(applied, "the consumer", live.plan.patience, pause=0.2)
        async with asyncio.timeout(live.plan.patience):
            entries = await logged(log, partitions)
    missing = {each.event_id for each in events} - event_ids(entries)
    viewers = sorted({each.viewer_id for each in events})
    differ = differing(rows.read(viewers), entries, EventRules.load(live.features), viewers)
    return [
        Row(f"{where}: acknowledged events that aren't in the log", len(missing), bound=0),
        Row(f"{where}: rows that differ from a clean replay, of {len(viewers)}", differ, bound=0),
        Row(f"{where}: seconds that the consumer was behind at the end", caught_up),
    ]


def _events(live: LiveStack) -> list[event_pb2.Event]:
    choose, now, videos = random.Random(_SEED), time.time(), live.videos  # noqa: S311
    return [
        event(
            f"durable-{now:.0f}-{number}",
            f"durable-{choose.randrange(_VIEWERS)}",
            choose.choice(KINDS),
            choose.choice(videos),
            now - choose.random() * PAST_SECONDS,
        )
        for number in range(live.plan.events)
    ]


def shuffled(events: Sequence[event_pb2.Event]) -> list[list[event_pb2.Event]]:
    """Return events in batches without order, some of which come again with another order."""
    choose = random.Random(_SEED)  # noqa: S311
    batches = in_batches(events, _BATCH)
    again = [
        choose.sample(batch, len(batch))
        for batch in choose.sample(batches, max(1, int(_SENT_AGAIN * len(batches))))
    ]
    return choose.sample(batches + again, len(batches) + len(again))


async def _record_all(
    live: LiveStack, batches: Sequence[Sequence[event_pb2.Event]], faults: Sequence[Fault]
) -> int:
    """Return the number of calls that failed and were repeated."""
    remaining, recorded = iter(batches), 0

    async def write(site: Site) -> None:
        nonlocal recorded
        for batch in remaining:
            await site.record(batch)
            recorded += 1

    async def fail() -> None:
        for number, fault in enumerate(faults, start=1):
            enough = number * len(batches) // (len(faults) + 1)

            async def written(enough: int = enough) -> bool:
                return recorded >= enough

            await until(written, "recording", live.plan.patience)
            await fault()

    async with (
        opened_site(live.edge, live.plan.patience) as site,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(fail())
        for _ in range(_WRITERS):
            tasks.create_task(write(site))
    return site.repeated
