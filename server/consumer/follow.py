"""Follows the log for one feature repository: applies what comes, batch after batch.

Two followers of a partition may run at once, for example while one replaces another: the store lets
one of them move the position. The other stands by until that one is silent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog
from prometheus_client import Counter, Histogram

from vireo.server.backoff import backoff
from vireo.server.consumer.apply import apply
from vireo.server.consumer.live_state import LiveState
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS, PROGRESS, STATE, Entry, LogAwayError, Position
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import RedisSettings, open_rows
from vireo.server.features.viewer_store import (
    PositionMovedError,
    RebuiltError,
    StoreAwayError,
    ViewerStore,
)
from vireo.server.rpc.spans import consumer_spans

log = structlog.get_logger()

T = TypeVar("T")

APPLIED = Counter("vireo_consumer_events", "Events applied to viewers' rows.", ["kind"])
SET_ASIDE = Counter("vireo_consumer_dead_events", "Messages of events that were set aside.")
RETRIES = Counter(
    "vireo_consumer_retries", "Batches tried again because the online store or the log was away."
)
BATCH_SECONDS = Histogram(
    "vireo_consumer_batch_seconds",
    "Seconds to apply a batch.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)

_MESSAGES_AT_A_TIME = 200
"""Maximum messages that are applied at a time."""
_BYTES_AT_A_TIME = 1 << 16
"""Maximum bytes of them, if there are several: some 1,500 events, whose rows are in memory."""
_LOG_PAUSE = 0.5
"""Seconds to wait for the log while it is away."""
_MIN_PAUSE, _MAX_PAUSE = 0.1, 5.0
"""Seconds to wait for an online store that is away: twice as long each time."""
STANDBY_SECONDS = 10.0
"""Seconds without a word of the other consumer, which publishes its progress every 5 s at least,
after which one that stands by goes on."""


class Follower:
    """Applies one partition of the log to one repository's rows."""

    def __init__(
        self,
        event_log: JetStreamLog,
        repo: Path,
        partition: int,
        state: LiveState,
        *,
        timeout: float,
        redis: RedisSettings | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            event_log: the log.
            repo: a feature folder.
            partition: the partition.
            state: what is published of it.
            timeout: maximum seconds to wait for the online store.
            redis: where Redis is; of this process's environment if None.
        """
        self._log, self._repo, self._partition, self._state = event_log, repo, partition, state
        self._open = partial(open_rows, repo, timeout, redis)
        self._failures = 0
        """Consecutive failures of the store."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rows")

    async def run(self) -> None:
        """Follow until cancelled.

        Raises:
            VireoError: there are no features that events can be applied to.
        """
        rules = EventRules.load(self._repo)
        try:
            while True:
                try:
                    await self._follow(rules)
                except StoreAwayError as error:  # meanwhile it is published how much waits
                    self._failures += 1
                    RETRIES.inc()
                    log.warning("the online store is away", reason=str(error))
                    await asyncio.sleep(backoff(self._failures, _MIN_PAUSE, _MAX_PAUSE))
                except RebuiltError as reason:
                    log.warning("following anew", reason=str(reason))
                except PositionMovedError as reason:
                    log.warning(
                        "another consumer has the partition",
                        partition=self._partition,
                        reason=str(reason),
                    )
                    self._state.end()
                    await self._logged(self._stand_by)
        finally:
            self._state.end()
            self._thread.shutdown(wait=False)

    async def _follow(self, rules: EventRules) -> None:
        await self._logged(self._state.restore)  # another consumer may have counted since
        rows = await self._in_thread(self._open)
        try:
            position = await self._in_thread(rows.position, self._partition)
            self._state.begin(position)
            log.info("following the log", repo=str(self._repo), position=str(position))
            async for entries in self._log.read(EVENTS, str(self._partition), position):
                if not entries:
                    # The store may have lost its last moments. And the position moves beyond other
                    # partitions' messages: else those that the log keeps no longer seem missed.
                    commit = partial(rows.commit, self._partition, position, entries.position, {})
                    await self._in_thread(commit)
                    position = entries.position
                for some in _parts(entries, self._state.counted):
                    await self._apply(rows, some, position, rules)
                    position = some[-1].position
        finally:
            # In the thread that uses it, once that is idle.
            await asyncio.shield(self._in_thread(rows.close))

    async def _apply(
        self, rows: ViewerStore, entries: Sequence[Entry], before: Position, rules: EventRules
    ) -> None:
        self._state.applying(entries[0])
        started = time.monotonic()
        traces = [entry.traceparent for entry in entries]
        with consumer_spans("apply events", traces, {"vireo.messages": str(len(entries))}):
            work = partial(
                apply, self._log, rows, self._partition, before, entries, rules, self._thread
            )
            batch = await self._logged(work)
        SET_ASIDE.inc(len(batch.dead))
        for kind, count in batch.kinds.items():
            APPLIED.labels(kind).inc(count)
        BATCH_SECONDS.observe(time.monotonic() - started)
        self._state.applied(batch)
        self._failures = 0

    async def _stand_by(self) -> None:
        """Return once no other consumer of the partition publishes its progress."""
        told = Position(await self._log.end(STATE))
        reading = self._log.read(STATE, f"{PROGRESS}{self._partition}", told)
        async with aclosing(reading) as progress:
            while True:
                try:
                    async with asyncio.timeout(STANDBY_SECONDS):
                        while not await anext(progress):
                            pass
                except TimeoutError:
                    return

    def _in_thread(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Return what some work on the rows returns."""
        return asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def _logged(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what some work with the log returns, as soon as the log is there."""
        while True:
            try:
                return await work()
            except LogAwayError as error:
                log.warning("waiting for the log", reason=str(error))
            RETRIES.inc()
            await asyncio.sleep(_LOG_PAUSE)


def _parts(entries: Sequence[Entry], counted: int) -> list[Sequence[Entry]]:
    """Return runs of messages that are small enough to be applied at a time.

    Those up to sequence `counted` aren't in one run with later ones.
    """
    parts, start, size = list[Sequence[Entry]](), 0, 0
    for place, entry in enumerate(entries):
        if place > start and (
            place - start >= _MESSAGES_AT_A_TIME
            or size + len(entry.data) > _BYTES_AT_A_TIME
            or entries[place - 1].sequence <= counted < entry.sequence
        ):
            parts.append(entries[start:place])
            start, size = place, 0
        size += len(entry.data)
    if start < len(entries):
        parts.append(entries[start:])
    return parts
