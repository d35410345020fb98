"""Applies some of the log's messages to viewers' rows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice

import structlog
import xxhash
from google.protobuf.message import DecodeError

from vireo.server.consumer.fold import UnfitEventError, ViewerEvents, fold
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import DEAD, EVENT_KINDS, Entry
from vireo.server.event_log.position import BEGIN, Position
from vireo.server.features.activity import EventRules
from vireo.server.features.keys import video_key
from vireo.server.features.viewer_rows import Change, ViewerRow
from vireo.server.features.viewer_store import VIEWERS_AT_A_TIME, ViewerStore
from vireo.v1 import event_pb2, log_pb2

log = structlog.get_logger()

_DEAD_AT_A_TIME = 500
"""Maximum events of a message in stream DEAD; one has less than 1 KiB."""
_MAX_GARBAGE_BYTES, _MAX_REASON_LENGTH = 1 << 19, 1_000
"""What is kept of bytes that can't be parsed, and of a reason."""


@dataclass(frozen=True)
class Watched:
    """A video that somebody watched or liked for the first time, for what is trending."""

    key: int
    at: float
    """Unix seconds."""
    locale: str


@dataclass
class Batch:
    """Some messages' events by viewer, and what comes of them."""

    position: Position = BEGIN
    """In the log, after the last message."""
    viewers: dict[str, ViewerEvents] = field(default_factory=dict)
    events: dict[str, list[tuple[int, event_pb2.Event]]] = field(default_factory=dict)
    """Each viewer's events with the position of their message, to set them aside."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Number of events by kind, without those that are set aside."""
    shown: set[tuple[str, int]] = field(default_factory=set)
    """Viewers, and the keys of the videos that they were shown or watched: whoever watches a video
    was shown it, whether the site says so or not."""
    watched: list[Watched] = field(default_factory=list)
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

    def letters(self) -> Iterator[tuple[bytes, str]]:
        """Yield a message of stream DEAD for each of `dead`, and the id by which it is stored once.

        A position alone isn't enough for an id: a log that lost its events begins with 1 again.
        """
        for number, letter in enumerate(self.dead):
            content = xxhash.xxh3_64_hexdigest(letter.recorded)
            yield letter.SerializeToString(), f"{letter.position}.{number}.{content}"

    def erase(self, viewer: str) -> None:
        """Forget what came of a viewer so far; none of it counts."""
        self.viewers.pop(viewer, None)
        for _, event in self.events.pop(viewer, ()):
            self.kinds[EVENT_KINDS[event.kind]] -= 1
        self.shown = {pair for pair in self.shown if pair[0] != viewer}
        self.dead = [letter for letter in self.dead if not _is_about(letter, viewer)]
        self.erased.add(viewer)

    def set_viewer_aside(self, viewer: str, reason: str) -> None:
        """Set all events of a viewer aside."""
        by_position: dict[int, list[event_pb2.Event]] = {}
        for position, event in self.events[viewer]:
            by_position.setdefault(position, []).append(event)
            self.kinds[EVENT_KINDS[event.kind]] -= 1
        for position, events in by_position.items():
            for start in range(0, len(events), _DEAD_AT_A_TIME):
                some = log_pb2.RecordedEvents(events=events[start : start + _DEAD_AT_A_TIME])
                self.set_aside(some.SerializeToString(), f"viewer {viewer!r}: {reason}", position)

    def change(self, viewer: str, row: ViewerRow) -> None:
        """Fold a viewer's events into the row that is stored."""
        events = self.viewers[viewer]
        change = self.changes[viewer] = fold(row, events)
        self.shown.update((viewer, key) for key in change.watched)
        for keys, times in ((change.watched, events.watches), (change.liked, events.likes)):
            self.watched += [Watched(key, times[key] / 1e6, events.locale) for key in keys]


def read_batch(entries: Sequence[Entry], rules: EventRules) -> Batch:
    """Return what some messages of stream EVENTS come to, by viewer."""
    batch = Batch()
    for entry in entries:
        try:
            recorded = log_pb2.RecordedEvents.FromString(entry.data)
        except DecodeError as error:
            batch.set_aside(entry.data, f"not RecordedEvents: {error}", entry.sequence)
            continue
        for viewer in recorded.erased:
            batch.erase(viewer)
        for event in recorded.events:
            _add(batch, event, entry.sequence, rules)
    if entries:
        batch.position = entries[-1].position
    return batch


def _add(batch: Batch, event: event_pb2.Event, position: int, rules: EventRules) -> None:
    viewer = event.viewer_id
    events = batch.viewers.get(viewer)
    if events is None:
        events = batch.viewers[viewer] = ViewerEvents()
        batch.events[viewer] = []
    try:
        if not viewer:
            raise UnfitEventError("an event without a viewer")
        events.add(event, rules)
    except Exception as error:  # noqa: BLE001  # whatever is wrong with one event, others go on
        recorded = log_pb2.RecordedEvents(events=[event]).SerializeToString()
        batch.set_aside(recorded, _reason(error), position)
        return
    batch.events[viewer].append((position, event))
    batch.kinds[EVENT_KINDS[event.kind]] += 1
    if event.kind == event_pb2.EVENT_KIND_IMPRESSION:
        batch.shown.add((viewer, video_key(event.video_id)))


def _is_about(letter: log_pb2.DeadEvents, viewer: str) -> bool:
    """Return whether events that were set aside are a viewer's; those of a letter are of one."""
    try:
        events = log_pb2.RecordedEvents.FromString(letter.recorded).events
    except DecodeError:
        return False
    return any(event.viewer_id == viewer for event in events)


def folded(rows: ViewerStore, entries: Sequence[Entry], rules: EventRules) -> Batch:
    """Return what some messages change in the rows; raise StoreAwayError."""
    batch = read_batch(entries, rules)
    viewers = [viewer for viewer, events in batch.viewers.items() if events.watches or events.hides]
    for start in range(0, len(viewers), VIEWERS_AT_A_TIME):
        some = viewers[start : start + VIEWERS_AT_A_TIME]
        for viewer, row in zip(some, rows.read(some), strict=True):
            known = ViewerRow() if viewer in batch.erased else row
            try:
                if not isinstance(known, ViewerRow):
                    raise known
                batch.change(viewer, known)
            except Exception as error:  # noqa: BLE001  # of one viewer: the others go on
                batch.set_viewer_aside(viewer, _reason(error))
    return batch


def hide(rows: ViewerStore, hides: Iterable[tuple[str, Mapping[int, int], bool]]) -> None:
    """Hide videos, whatever the log says.

    Args:
        rows: the rows, which no consumer brings up to date meanwhile.
        hides: viewers, when they hid each video in Unix seconds by its key, and whether they get a
            row if they have none.
    """
    left = iter(hides)
    while some := [*islice(left, VIEWERS_AT_A_TIME)]:
        known = zip(some, rows.read([viewer for viewer, _, _ in some]), strict=True)
        rows.write(
            {
                viewer: fold(row, ViewerEvents(hides=dict(times)))
                for (viewer, times, adds), row in known
                if isinstance(row, ViewerRow) and (adds or len(row.keys) or len(row.hidden_keys))
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


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
