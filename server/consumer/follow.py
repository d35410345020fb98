"""Follows the log for one feature repository: applies what comes, batch after batch."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from vireo.server.consumer import metrics
from vireo.server.consumer.apply import Batch, apply, read_batch
from vireo.server.consumer.lease import Lease, LeaseLostError, lease_of
from vireo.server.consumer.live_state import LiveState
from vireo.server.consumer.rows import OnlineRows, StoreAwayError
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import DEAD, EVENTS, Entry, LogAwayError
from vireo.server.event_log.position import BEGIN, Position
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import RedisSettings, identity
from vireo.server.tracing.spans import consumer_spans

log = structlog.get_logger()

T = TypeVar("T")

_MESSAGES_AT_A_TIME = 200
"""Maximum messages that are applied at a time."""
_BYTES_AT_A_TIME = 1 << 20
"""Maximum bytes of them, if there are several: a message has up to 1,000 events."""
_LOG_PAUSE = 0.5
"""Seconds to wait for the log while it is away."""
_EXPIRE_SECONDS = 10.0
"""Seconds between two looks for viewers who weren't seen for long, at some hundreds each."""
_LEASE_PAUSE = 1.0
"""Seconds between attempts to take a lease that another consumer holds."""


class RebuiltError(Exception):
    """The features were built again: another repository is in the folder."""


class PositionMovedError(Exception):
    """The online store has another position: it lost its last moments, or was restored."""


class Follower:
    """Applies one partition of the log to one repository's rows."""

    def __init__(
        self,
        event_log: JetStreamLog,
        repo: Path,
        partition: int,
        state: LiveState,
        *,
        holder: str,
        timeout: float,
        expiry: float = math.inf,
        redis: RedisSettings | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            event_log: the log.
            repo: a feature folder.
            partition: the partition.
            state: what is published of it.
            holder: names this process in the lease; see `holder_name`.
            timeout: maximum seconds to wait for the online store.
            expiry: seconds without an event after which a viewer's rows are deleted.
            redis: where Redis is; of this process's environment if None.
        """
        self._log, self._repo, self._partition, self._state = event_log, repo, partition, state
        self._holder, self._timeout, self._expiry = holder, timeout, expiry
        self._redis = redis
        self._expired_at, self._expired = 0.0, b""
        self._identity = identity(repo)
        self.applied = False
        """Whether it has applied anything."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rows")
        self._rows: OnlineRows | None = None
        self._lease: Lease | None = None

    async def run(self) -> None:
        """Follow until cancelled.

        Raises:
            RebuiltError: the features were built again.
            LeaseLostError: another consumer has taken the partition.
            PositionMovedError: the store isn't as this process left it.
            StoreAwayError: the store can't be read or written now.
            VireoError: there are no features that events can be applied to.
        """
        try:
            rules = EventRules.load(self._repo)
            position = await self._begin()
            async for entries in self._log.read(EVENTS, str(self._partition), position):
                if not entries:
                    await self._in_thread(partial(self._look, position, entries.position))
                    position = entries.position
                for some in _parts(entries, self._state.counted):
                    await self._apply(some, position, rules)
                    position = some[-1].position
        finally:
            metrics.LEASE_HELD.set(0)
            # What runs ends first: else rows could be written without the lease.
            await asyncio.shield(asyncio.wrap_future(self._thread.submit(self._close)))
            self._thread.shutdown(wait=False)

    async def _begin(self) -> Position:
        """Wait for the lease; return the position from which on to read."""
        waiting = False
        while not await self._in_thread(self._hold):
            if not waiting:
                log.warning("another consumer has the partition", partition=self._partition)
            waiting = True
            self._state.end()
            await asyncio.sleep(_LEASE_PAUSE)
        metrics.LEASE_HELD.set(1)
        await self._logged(self._state.restore)  # another consumer may have counted since
        position = await self._in_thread(lambda rows: rows.position(self._partition))
        self._state.begin(position)
        log.info("following the log", repo=str(self._repo), position=str(position))
        return position

    async def _apply(self, entries: Sequence[Entry], position: Position, rules: EventRules) -> None:
        """Apply the messages after a position, then store theirs: so a crash loses nothing."""
        self._state.applying(entries[0])
        started = time.monotonic()
        traces = [entry.traceparent for entry in entries]
        attributes = {"vireo.messages": str(len(entries))}
        with consumer_spans("apply events", traces, attributes):
            batch = await self._in_thread(partial(self._fold, entries, position, rules))
            await self._set_aside(batch)
            await self._in_thread(lambda rows: self._move(rows, position, batch.position))
        for kind, count in batch.kinds.items():
            metrics.EVENTS.labels(kind).inc(count)
        metrics.BATCH_SECONDS.observe(time.monotonic() - started)
        self._state.applied(batch)
        self.applied = True

    def _fold(
        self, entries: Sequence[Entry], position: Position, rules: EventRules, rows: OnlineRows
    ) -> Batch:
        """Fold the messages after a position into the rows."""
        self._renew_lease(rows)
        self._expire(rows)
        batch = read_batch(entries, rules)
        try:
            apply(rows, batch, partial(self._renew_lease, rows))
        except LeaseLostError:
            self._go_back(rows, position)
            raise
        return batch

    def _move(self, rows: OnlineRows, before: Position, position: Position) -> None:
        """Store the position, unless the store has another than the one before."""
        try:
            self._check(rows, before)
        except PositionMovedError:
            self._go_back(rows, before)
            raise
        rows.write_position(self._partition, position)

    def _go_back(self, rows: OnlineRows, before: Position) -> None:
        """Let whoever has the partition apply again what may have been written over.

        A consumer that stands still between its read and its write writes rows without what
        another one has applied since it took the lease. That one notices that the position went
        back, unless it stores its own at this very moment; events that are applied twice do no
        harm.
        """
        stored = rows.position(self._partition)
        if stored.log != before.log:  # that of a log that was replaced
            before = BEGIN
        if stored.sequence > before.sequence:
            rows.write_position(self._partition, before)

    def _expire(self, rows: OnlineRows) -> None:
        """Delete some of the viewers who weren't seen for long, every few seconds."""
        now = time.monotonic()
        if now - self._expired_at >= _EXPIRE_SECONDS:
            self._expired_at = now
            self._expired = rows.expire(self._expiry, self._expired)

    def _look(self, before: Position, position: Position, rows: OnlineRows) -> None:
        """Keep the lease, and see whether the store has lost rows, while no events come.

        The position moves beyond other partitions' messages: else what the log keeps of them no
        longer would seem to be missed.
        """
        self._renew_lease(rows)
        self._check(rows, before)
        self._expire(rows)
        if position != before:
            rows.write_position(self._partition, position)

    def _check(self, rows: OnlineRows, position: Position) -> None:
        stored = rows.position(self._partition)
        if stored != position:
            raise PositionMovedError(f"the online store is at {stored}, not at {position}")

    def _renew_lease(self, rows: OnlineRows) -> None:
        if not self._hold(rows):
            raise LeaseLostError("another consumer took the partition")

    async def _set_aside(self, batch: Batch) -> None:
        for data, dedup_id in batch.letters():
            append = partial(self._log.append, DEAD, str(self._partition), data, dedup_id)
            await self._logged(append)
            metrics.DEAD.inc()

    def _hold(self, rows: OnlineRows) -> bool:
        if self._lease is None:
            self._lease = lease_of(rows, self._partition, self._holder)
        return self._lease.hold()

    async def _in_thread(self, work: Callable[[OnlineRows], T]) -> T:
        """Return what some work on the rows returns."""
        if identity(self._repo) not in ((), self._identity):  # there is none for a moment
            raise RebuiltError("the features were built again")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(self._current()))

    async def _logged(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what a call of the log returns, as soon as the log is there."""
        while True:
            try:
                return await work()
            except LogAwayError as error:
                log.warning("waiting for the log", reason=str(error))
            metrics.RETRIES.inc()
            await asyncio.sleep(_LOG_PAUSE)

    def _current(self) -> OnlineRows:
        if self._rows is None:
            self._rows = OnlineRows(self._repo, self._timeout, self._redis)
        if self._rows.superseded():
            raise RebuiltError("Redis announces another build of the features")
        return self._rows

    def _close(self) -> None:
        """Give the lease back and close the store, in the thread that uses it."""
        try:
            if self._lease is not None:
                self._lease.release()
            if self._rows is not None:
                self._rows.close()
        except StoreAwayError as error:
            log.warning("the lease will expire by itself", reason=str(error))
        self._lease, self._rows = None, None


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
