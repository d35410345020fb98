"""What a consumer publishes in stream STATE: how far it has come, and what is trending.

Counts of watches and likes halve in a given time, and are bounded in number. The count of an event
at time t is kept as 2 ** ((t - landmark) / half_life): older events weigh less for ever after,
without touching any count as time passes.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

import structlog
from google.protobuf.message import DecodeError
from prometheus_client import Gauge

from vireo.server.consumer.apply import Batch
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
from vireo.server.recommend.catalogue.trends import normal_locale
from vireo.v1 import log_pb2

log = structlog.get_logger()

LAG_MESSAGES = Gauge("vireo_consumer_lag_messages", "Messages of the log that aren't applied.")
LAG_SECONDS = Gauge(
    "vireo_consumer_lag_seconds", "Seconds since the oldest event that isn't applied came in."
)
LEASE_HELD = Gauge("vireo_consumer_lease_held", "1 while this process applies the partition.")
POSITION = Gauge("vireo_consumer_position", "Position in the log up to which rows have the events.")

_BUSY_SECONDS, _IDLE_SECONDS = 1.0, 5.0
"""Seconds between two publications while events are applied or pending, and otherwise."""
MAX_VIDEOS = 5_000
"""Videos that are counted for each locale; twice as many between two clean-ups. The lightest are
forgotten first."""
MAX_LOCALES = 64
"""Locales that are counted; the lightest is forgotten for a new one."""
LISTED_VIDEOS, LISTED_LOCALES, LISTED_LOCALE_VIDEOS = 500, 16, 100
"""What is published: the heaviest videos of all, and those of the heaviest locales."""
MAX_SHOWN_PAIRS = 50_000
"""Last pairs of a viewer and a new video that are remembered, so that each counts once."""
MAX_NEW_VIDEOS = 20_000
"""New videos whose impressions are counted; those shown least are forgotten first."""
_MAX_EXPONENT = 500.0
"""Half-lives by which an event may lie beside the landmark; weights stay within a float's range."""


@dataclass(slots=True)
class _Counts:
    """Weights of one locale's videos, in units of the landmark."""

    total: float = 0.0
    weights: dict[int, float] = field(default_factory=dict)

    def add(self, key: int, weight: float) -> None:
        self.total += weight
        self.weights[key] = self.weights.get(key, 0.0) + weight
        if len(self.weights) > 2 * MAX_VIDEOS:
            self.weights = dict(self.heaviest(MAX_VIDEOS))

    def heaviest(self, count: int) -> list[tuple[int, float]]:
        """Return the heaviest videos and their weights; ties by key."""
        return heapq.nsmallest(count, self.weights.items(), key=lambda each: (-each[1], each[0]))

    def scale(self, factor: float) -> None:
        self.total *= factor
        self.weights = {key: weight * factor for key, weight in self.weights.items()}


class TrendingCounts:
    """Counts of one partition's events. Positions of the log tell which events are in."""

    def __init__(self, half_life: float) -> None:
        """Count nothing yet; `half_life` is in seconds."""
        self.position = BEGIN
        """Position in the log up to which events are counted."""
        self._half_life = half_life
        self._landmark = 0.0
        self._all = _Counts()
        self._locales: dict[str, _Counts] = {}
        self._impressions: dict[int, int] = {}
        self._pairs: dict[int, None] = {}

    def add(self, key: int, at: float, locale: str = "") -> None:
        """Count a watch or a like of a video at a time, Unix seconds, in all and in a locale."""
        exponent = (at - self._landmark) / self._half_life
        if not self._all.weights or exponent > _MAX_EXPONENT:
            self._move_landmark(at)
            exponent = 0.0
        weight = _power(max(exponent, -_MAX_EXPONENT))
        self._all.add(key, weight)
        if locale:
            self._of(normal_locale(locale)).add(key, weight)

    def show(self, pairs: Iterable[tuple[str, int]], new: Container[int]) -> None:
        """Count impressions of videos that are new: pairs of a viewer and a video's key.

        A viewer counts once for each video, so that nobody takes a new video's positions from it
        by looking at it again and again.
        """
        for pair in pairs:
            key, known = pair[1], hash(pair)
            if key not in new or known in self._pairs:
                continue
            self._pairs[known] = None
            if len(self._pairs) > MAX_SHOWN_PAIRS:
                del self._pairs[next(iter(self._pairs))]
            self._impressions[key] = self._impressions.get(key, 0) + 1
        if len(self._impressions) > 2 * MAX_NEW_VIDEOS:
            kept = heapq.nlargest(MAX_NEW_VIDEOS, self._impressions.items(), key=lambda it: it[1])
            self._impressions = dict(kept)

    def message(self, now: float) -> log_pb2.Trending:
        """Return what to publish at a time, Unix seconds."""
        # After the clock was set back, what was counted until then counts as of now.
        self._landmark = min(self._landmark, now)
        scale = _power((self._landmark - now) / self._half_life)
        shown = heapq.nlargest(MAX_NEW_VIDEOS, self._impressions.items(), key=lambda it: it[1])
        message = log_pb2.Trending(
            counted=str(self.position),
            lists=[_list("", self._all, LISTED_VIDEOS, scale)],
            new_keys=[key for key, _ in shown],
            new_impressions=[count for _, count in shown],
        )
        message.at.FromNanoseconds(round(now * 1e9))
        busiest = heapq.nlargest(
            LISTED_LOCALES, self._locales.items(), key=lambda each: (each[1].total, each[0])
        )
        message.lists.extend(
            _list(locale, counts, LISTED_LOCALE_VIDEOS, scale) for locale, counts in busiest
        )
        return message

    @staticmethod
    def restored(message: log_pb2.Trending, half_life: float) -> TrendingCounts:
        """Return the counts as they were published last; videos beyond the lists begin again at 0.

        Raises:
            ValueError: its position is none.
        """
        counts = TrendingCounts(half_life)
        counts.position = Position.parse(message.counted)
        counts._landmark = message.at.ToNanoseconds() / 1e9
        for each in message.lists:
            own = counts._of(each.locale) if each.locale else counts._all
            own.weights = dict(zip(each.keys, each.weights, strict=True))
            own.total = sum(own.weights.values())
        counts._impressions = dict(zip(message.new_keys, message.new_impressions, strict=True))
        return counts

    def _of(self, locale: str) -> _Counts:
        counts = self._locales.get(locale)
        if counts is None:
            if len(self._locales) >= MAX_LOCALES:
                lightest = min(self._locales, key=lambda each: self._locales[each].total)
                del self._locales[lightest]
            counts = self._locales[locale] = _Counts()
        return counts

    def _move_landmark(self, to: float) -> None:
        factor = _power((self._landmark - to) / self._half_life)
        self._landmark = to
        for counts in (self._all, *self._locales.values()):
            counts.scale(factor)


def _power(exponent: float) -> float:
    """Return 2 ** exponent; as of the largest exponent instead of an OverflowError."""
    return math.pow(2.0, min(exponent, _MAX_EXPONENT))


def _list(locale: str, counts: _Counts, limit: int, scale: float) -> log_pb2.TrendingVideos:
    heaviest = counts.heaviest(limit)
    return log_pb2.TrendingVideos(
        locale=locale,
        keys=[key for key, _ in heaviest],
        weights=[weight * scale for _, weight in heaviest],
    )


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
        LEASE_HELD.set(1)
        self._changed.set()

    def end(self) -> None:
        """Note that this process applies no events: another one, if any, publishes its state."""
        self._position, self._applying = None, None
        LEASE_HELD.set(0)

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
        POSITION.set(position)
        LAG_MESSAGES.set(pending)
        LAG_SECONDS.set(max(0.0, time.time() - oldest) if oldest is not None else 0.0)
        return progress
