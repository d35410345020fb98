"""Applies a batch of the log's messages to viewers' rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import structlog
import xxhash
from google.protobuf.message import DecodeError

from vireo.server.consumer.fold import Folded, UnfitEventError, ViewerEvents, ViewerRow, fold
from vireo.server.consumer.lease import LeaseLostError
from vireo.server.consumer.rows import VIEWERS_AT_A_TIME, OnlineRows, StoreAwayError, UnfitRowError
from vireo.server.event_log.log import EVENT_KINDS, Entry
from vireo.server.event_log.position import BEGIN, Position
from vireo.server.features.activity import EventRules
from vireo.server.features.keys import video_key
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
    """Some messages' events by viewer, and what came of them."""

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
    """Viewers who were erased: their rows go before `events` are applied, which came later."""
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
        self.dead = [letter for letter in self.dead if not is_about(letter, viewer)]
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


def is_about(letter: log_pb2.DeadEvents, viewer: str) -> bool:
    """Return whether events that were set aside are a viewer's; those of a letter are of one."""
    try:
        events = log_pb2.RecordedEvents.FromString(letter.recorded).events
    except DecodeError:
        return False
    return any(event.viewer_id == viewer for event in events)


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


def _no_lease() -> None:
    pass


def apply(rows: OnlineRows, batch: Batch, renew_lease: Callable[[], None] = _no_lease) -> None:
    """Bring the rows of a batch's viewers up to date, and note what is new in the batch.

    Args:
        rows: the rows.
        batch: the batch.
        renew_lease: called before each write; raises LeaseLostError if another consumer may write.

    Raises:
        StoreAwayError: some rows may be written, others not; apply the same messages again.
        LeaseLostError: some rows may be written, others not.
    """
    if batch.erased:
        renew_lease()
        rows.erase(batch.erased)
    viewers = [viewer for viewer, events in batch.viewers.items() if events.watches or events.hides]
    for start in range(0, len(viewers), VIEWERS_AT_A_TIME):
        part = viewers[start : start + VIEWERS_AT_A_TIME]
        try:
            _apply_to(rows, batch, part, renew_lease)
        except (StoreAwayError, LeaseLostError):
            raise
        except Exception:  # noqa: BLE001  # one viewer's row is at fault: the others go on
            for viewer in part:
                try:
                    _apply_to(rows, batch, [viewer], renew_lease)
                except (StoreAwayError, LeaseLostError):
                    raise
                except Exception as error:  # noqa: BLE001
                    batch.set_viewer_aside(viewer, _reason(error))


def _apply_to(
    rows: OnlineRows, batch: Batch, viewers: Sequence[str], renew_lease: Callable[[], None]
) -> None:
    changes: dict[str, Folded] = {}
    unfit: dict[str, UnfitRowError] = {}
    for viewer, row in zip(viewers, rows.read(viewers), strict=True):
        if isinstance(row, ViewerRow):
            changes[viewer] = fold(row, batch.viewers[viewer])
        else:
            unfit[viewer] = row
    renew_lease()
    rows.write(changes)
    for viewer, change in changes.items():
        events = batch.viewers[viewer]
        for key in change.watched:
            batch.watched.append(Watched(key, events.watches[key] / 1e6, events.locale))
            batch.shown.add((viewer, key))
        for key in change.liked:
            batch.watched.append(Watched(key, events.likes[key] / 1e6, events.locale))
    for viewer, error in unfit.items():
        batch.set_viewer_aside(viewer, _reason(error))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
