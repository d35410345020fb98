"""Applies some of the log's messages to viewers' rows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import structlog
import xxhash
from google.protobuf.message import DecodeError

from vireo.server.consumer.fold import ViewerEvents, fold
from vireo.server.event_log.jetstream import EVENT_KINDS, JetStreamLog
from vireo.server.event_log.log import BEGIN, DEAD, Entry, Position
from vireo.server.features.activity import EventRules
from vireo.server.features.viewer_rows import Change, UnfitRowError, ViewerRow
from vireo.server.features.viewer_store import VIEWERS_AT_A_TIME, ViewerStore
from vireo.v1 import event_pb2, log_pb2

log = structlog.get_logger()

_MAX_GARBAGE_BYTES, _MAX_REASON_LENGTH = 1 << 19, 1_000
"""What is kept of bytes that can't be parsed, and of a reason."""

Logged: TypeAlias = list[tuple[int, event_pb2.Event]]
"""Events, each with the position of its message."""


@dataclass
class Batch:
    """What comes of some messages."""

    position: Position = BEGIN
    """In the log, after the last message."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Number of events by kind, without those that are set aside."""
    shown: set[tuple[str, int]] = field(default_factory=set)
    """Viewers, and the keys of the videos that they were shown or watched: whoever watches a video
    was shown it, whether the site says so or not."""
    watched: list[tuple[int, float, str]] = field(default_factory=list)
    """Key, Unix seconds and locale of each first watch or like, for what is trending."""
    erased: set[str] = field(default_factory=set)
    """Viewers who were erased: their rows go before `changes`, which came later."""
    changes: dict[str, Change] = field(default_factory=dict)
    """What to store, by viewer."""
    dead: list[log_pb2.DeadEvents] = field(default_factory=list)
    """Events that can't be applied."""

    def set_aside(self, recorded: bytes, reason: str, position: int) -> None:
        """Add events that can't be applied: a message that fits into the log."""
        letter = log_pb2.DeadEvents(
            recorded=recorded[:_MAX_GARBAGE_BYTES],
            reason=reason[:_MAX_REASON_LENGTH],
            position=position,
        )
        letter.at.GetCurrentTime()
        self.dead.append(letter)
        log.warning("events set aside", reason=reason, position=position)

    def set_event_aside(self, event: event_pb2.Event, error: Exception, position: int) -> None:
        """Add one event that can't be applied."""
        recorded = log_pb2.RecordedEvents(events=[event]).SerializeToString()
        self.set_aside(recorded, f"{type(error).__name__}: {error}", position)

    def letters(self) -> Iterator[tuple[bytes, str]]:
        """Yield a message of stream DEAD for each of `dead`, and the id by which it is stored once.

        A position alone isn't enough for an id: a log that lost its events begins with 1 again.
        """
        for letter in self.dead:
            content = xxhash.xxh3_64_hexdigest(letter.recorded)
            yield letter.SerializeToString(), f"{letter.position}.{content}"

    def change(self, viewer: str, change: Change, events: ViewerEvents) -> None:
        """Add what a viewer's events change in the row."""
        self.changes[viewer] = change
        self.shown.update((viewer, key) for key in change.watched)
        for keys, times in ((change.watched, events.watches), (change.liked, events.likes)):
            self.watched += [(key, times[key] / 1e6, events.locale) for key in keys]

    def count(self, viewer: str, applied: Logged, events: ViewerEvents) -> None:
        """Count a viewer's events, if they were applied, and what they show."""
        self.kinds.update(EVENT_KINDS[event.kind] for _, event in applied)
        if applied:
            self.shown.update((viewer, key) for _, key in events.shown)


def read_batch(entries: Sequence[Entry]) -> tuple[Batch, dict[str, Logged]]:
    """Return a batch of some messages of stream EVENTS, and the events to apply, by viewer."""
    batch, events = Batch(), dict[str, Logged]()
    for entry in entries:
        try:
            recorded = log_pb2.RecordedEvents.FromString(entry.data)
        except DecodeError as error:
            batch.set_aside(entry.data, f"not RecordedEvents: {error}", entry.sequence)
            continue
        for viewer in recorded.erased:
            batch.erased.add(viewer)
            events.pop(viewer, None)
        for event in recorded.events:
            events.setdefault(event.viewer_id, []).append((entry.sequence, event))
    if entries:
        batch.position = entries[-1].position
    return batch, events


def sum_up(batch: Batch, logged: Logged, rules: EventRules) -> tuple[ViewerEvents, Logged]:
    """Return what a viewer's events come to, and which they are; others are set aside."""
    events, applied = ViewerEvents(), Logged()
    for position, event in logged:
        try:
            events.add(event, rules)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with one, others go on
            batch.set_event_aside(event, error, position)
        else:
            applied.append((position, event))
    return events, applied


def folded(rows: ViewerStore, entries: Sequence[Entry], rules: EventRules) -> Batch:
    """Return what some messages change in the rows; raise StoreAwayError."""
    batch, logged = read_batch(entries)
    left = {viewer: sum_up(batch, some, rules) for viewer, some in logged.items()}
    by_views: dict[tuple[str, ...], list[str]] = {}
    for viewer, (events, _) in left.items():
        by_views.setdefault(events.views, []).append(viewer)
    by_views.pop((), None)
    for views, named in by_views.items():  # those of impressions need a small part of their rows
        viewers = iter(named)
        while some := [*islice(viewers, VIEWERS_AT_A_TIME)]:
            for viewer, row in zip(some, rows.read(some, views), strict=True):
                _fold(batch, viewer, row, *left[viewer])
    for viewer, (events, applied) in left.items():
        batch.count(viewer, applied, events)
    return batch


def _fold(
    batch: Batch,
    viewer: str,
    row: ViewerRow | UnfitRowError,
    events: ViewerEvents,
    applied: Logged,
) -> None:
    """Add what a viewer's events change in the row; set them aside if that fails."""
    known = ViewerRow() if viewer in batch.erased else row
    try:
        if not isinstance(known, ViewerRow):
            raise known
        batch.change(viewer, fold(known, events), events)
    except Exception as error:  # noqa: BLE001  # of one viewer: the others go on
        for position, event in applied:
            batch.set_event_aside(event, error, position)
        applied.clear()


def keep(rows: ViewerStore, kept: Iterable[tuple[str, ViewerRow, bool]]) -> None:
    """Add what other rows have hidden and follow, whatever the log says.

    Args:
        rows: the rows, which no consumer brings up to date meanwhile.
        kept: viewers, their other rows, and whether they get a row if they have none.
    """
    left = iter(kept)
    while some := [*islice(left, VIEWERS_AT_A_TIME)]:
        known = zip(some, rows.read([viewer for viewer, _, _ in some]), strict=True)
        rows.write(
            {
                viewer: fold(row, ViewerEvents(hides=other.hides, followed=other.followed))
                for (viewer, other, adds), row in known
                if isinstance(row, ViewerRow) and (adds or row.watched or row.hides)
            }
        )


async def apply(
    event_log: JetStreamLog,
    rows: ViewerStore,
    partition: int,
    before: Position,
    entries: Sequence[Entry],
    rules: EventRules,
    executor: Executor | None = None,
) -> Batch:
    """Apply messages of a partition to the rows, and move its position: all of it or nothing.

    What can't be applied is set aside in the log first: after a crash it is so again, under the
    same id.

    Args:
        event_log: the log.
        rows: the rows.
        partition: the partition.
        before: its position.
        entries: the messages after it.
        rules: how events count.
        executor: where `rows` may be used; the loop's own threads if None.

    Raises:
        StoreAwayError, LogAwayError: apply the same messages again, from the position that is
            stored then.
        PositionMovedError, RebuiltError: as of `ViewerStore.commit`.
    """
    loop = asyncio.get_running_loop()
    batch = await loop.run_in_executor(executor, folded, rows, entries, rules)
    for data, dedup_id in batch.letters():
        await event_log.append(DEAD, str(partition), data, dedup_id)
    after = batch.position if entries else before
    changes, erased = batch.changes, batch.erased
    await loop.run_in_executor(executor, rows.commit, partition, before, after, changes, erased)
    return batch
