"""What the log has, and the rows that a run without faults makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np

from vireo.server.consumer.apply import read_batch
from vireo.server.consumer.fold import ViewerEvents, fold
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import EVENTS, Entry
from vireo.server.features.activity import EventRules
from vireo.server.features.viewer_rows import ViewerRow
from vireo.v1 import event_pb2, log_pb2

STORE_SECONDS = 5.0
"""Maximum seconds of a read of rows."""
KINDS = (
    event_pb2.EVENT_KIND_PLAY,
    event_pb2.EVENT_KIND_PLAY,
    event_pb2.EVENT_KIND_FINISH,
    event_pb2.EVENT_KIND_LIKE,
    event_pb2.EVENT_KIND_HIDE,
    event_pb2.EVENT_KIND_IMPRESSION,
)
"""Kinds of events to draw from."""
PAST_SECONDS = 6 * 86_400.0
"""Seconds back to which their times go: they come in any order."""


async def logged(log: JetStreamLog, partitions: Iterable[int]) -> list[Entry]:
    """Return all messages of some partitions, in each one's order."""
    reads = (log.up_to_end(EVENTS, str(each)) for each in partitions)
    return [entry for read in reads async for some in read for entry in some]


def event_ids(entries: Iterable[Entry]) -> set[str]:
    """Return the ids of the events in messages."""
    return {
        event.event_id
        for entry in entries
        for event in log_pb2.RecordedEvents.FromString(entry.data).events
    }


def differing(
    stored: Iterable[object], entries: Sequence[Entry], rules: EventRules, viewers: Sequence[str]
) -> int:
    """Return how many rows of viewers, who had none before, differ from a clean replay's."""
    events = read_batch(entries, rules).viewers
    clean = (fold(ViewerRow(), events.get(viewer, ViewerEvents())).row for viewer in viewers)
    return sum(not _same(*both) for both in zip(stored, clean, strict=True))


def _same(stored: object, clean: ViewerRow) -> bool:
    return isinstance(stored, ViewerRow) and all(
        np.array_equal(getattr(stored, each.name), getattr(clean, each.name))
        for each in fields(ViewerRow)
    )
