"""What a consumer publishes in stream STATE: how far it has come, and what is trending."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog
from google.protobuf.message import DecodeError

from vireo.server.consumer import metrics
from vireo.server.consumer.apply import Batch
from vireo.server.consumer.trending import TrendingCounts
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import (
    BEGIN,
    CATALOG,
    EVENTS,
    PROGRESS,
    STATE,
    TRENDING,
    Entry,
    LogAwayError,
    Position,
)
from vireo.server.features.keys import video_key
from vireo.v1 import log_pb2

log = structlog.get_logger()

_BUSY_SECONDS, _IDLE_SECONDS = 1.0, 5.0
"""Seconds between two publications while events are applied or pending, and otherwise."""


class LiveState:
    """The state of one partition. Use it from one event loop."""

    def __init__(
        self, event_log: JetStreamLog, partition: int, half_life: float, max_new: int = 200_000
    ) -> None:
        """Know nothing yet.

        Args:
            event_log: the log.
            partition: the partition.
            half_life: that of what is trending, in seconds.
            max_new: maximum videos of the catalogue's stream whose impressions may be counted; the
                last ones.
        """
        self._log, self._partition, self._half_life = event_log, partition, half_life
        self._position: Position | None = None
        self._applying: Entry | None = None
        self._pending_since: float | None = None
        self._trending = TrendingCounts(half_life)
        self._trending_changed = False
        self._max_new = max_new
        self._new = dict[int, None]()
        self._changed = asyncio.Event()

    async def restore(self) -> None:
        """Go on counting from what was published last, by this process or by another one.

        Raises:
            LogAwayError: the log can't be read now.
        """
        async for entries in self._log.read(STATE, f"{TRENDING}{self._partition}"):
            for entry in entries:
                try:
                    published = TrendingCounts.restored(
                        log_pb2.Trending.FromString(entry.data), self._half_life
                    )
                except (DecodeError, ValueError) as error:
                    log.error("what is trending is counted anew", reason=str(error))
                    continue
                if published.position.follows(self._trending.position):
                    self._trending = published
            if not entries:
                break
        if not (await self._log.resume(EVENTS, self._trending.position)).after:
            self._trending.position = BEGIN

    @property
    def counted(self) -> int:
        """Sequence up to which the log's events are counted for what is trending."""
        return self._trending.position.sequence

    def begin(self, position: Position) -> None:
        """Note from where on this process applies events."""
        self._position = position
        self._changed.set()

    def end(self) -> None:
        """Note that this process applies no events: another one, if any, publishes its state."""
        self._position, self._applying = None, None

    def applying(self, first: Entry) -> None:
        """Note the first of the messages that are applied next."""
        self._applying = first
        self._changed.set()

    def applied(self, batch: Batch) -> None:
        """Note what a batch came to; events up to `counted` and later ones are never in one."""
        counts = self._trending
        before, position = self._position, batch.position
        lost = before is not None and position.shares_log(before) and not position.follows(before)
        if lost or not position.shares_log(counts.position):
            counts.position = BEGIN
        self._position, self._applying = position, None
        if position.follows(counts.position):  # else features that were built anew catch up
            now = time.time()
            for key, at, locale in batch.watched:
                counts.add(key, min(at, now), locale)
            counts.show(batch.shown, self._new)
            counts.position = position
            self._trending_changed |= bool(batch.watched or batch.shown)
        self._changed.set()

    async def follow_catalog(self) -> None:
        """Learn which videos are new, until cancelled."""
        async for entries in self._log.read(CATALOG):
            self.learn(entries)

    def learn(self, entries: Sequence[Entry]) -> None:
        """Learn from changes of the catalogue which videos are new."""
        for entry in entries:
            try:
                change = log_pb2.CatalogChange.FromString(entry.data)
            except DecodeError as error:
                log.error("skipped a change of the catalogue", reason=str(error))
                continue
            key = video_key(change.video.video_id)
            self._new.pop(key, None)
            if not change.removed:
                self._new[key] = None
                if len(self._new) > self._max_new:
                    del self._new[next(iter(self._new))]

    async def run(self) -> None:
        """Publish, each second while something happens and every few seconds otherwise."""
        while True:
            try:
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            if self._position is None:
                continue
            try:
                await self.publish()
            except LogAwayError as error:
                log.warning("publishing the consumer's state failed", reason=str(error))
                self._changed.set()
            await asyncio.sleep(_BUSY_SECONDS)

    async def publish(self) -> None:
        """Append the state to stream STATE; raise LogAwayError."""
        end = await self._log.end(EVENTS, str(self._partition))
        progress = self._progress(end)
        if progress is None:
            return
        await self._log.append(STATE, f"{PROGRESS}{self._partition}", progress.SerializeToString())
        if self._trending_changed:
            self._trending_changed = False
            trending = self._trending.message(time.time())
            try:
                await self._log.append(
                    STATE, f"{TRENDING}{self._partition}", trending.SerializeToString()
                )
            except LogAwayError:
                self._trending_changed = True
                raise

    def _progress(self, end: int) -> log_pb2.ConsumerProgress | None:
        """Return how far this process has come; `end` is the last message's sequence."""
        if self._position is None:
            return None
        position = self._position.sequence
        # Of several partitions' messages some are others': more than are pending, or none.
        pending = max(0, end - position)
        progress = log_pb2.ConsumerProgress(
            partition=self._partition, position=position, pending=pending
        )
        oldest = None
        if pending:  # one that wasn't read yet was recorded by the time that it was noticed
            oldest = self._pending_since or time.time()
            if self._applying is not None:
                oldest = min(self._applying.stored_at, time.time())
        self._pending_since = oldest
        if oldest is not None:
            progress.oldest_pending.FromNanoseconds(round(oldest * 1e9))
            self._changed.set()  # publish again in a second
        metrics.POSITION.set(position)
        metrics.LAG_MESSAGES.set(pending)
        metrics.LAG_SECONDS.set(max(0.0, time.time() - oldest) if oldest is not None else 0.0)
        return progress
