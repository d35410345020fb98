"""Events in messages of the log, and feature repositories that events are applied to."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vireo.server.features.activity import EventRules
from vireo.training.data.log_events import interaction_events
from vireo.training.features.definitions import apply_definitions, write_configuration
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.v1 import event_pb2, log_pb2

import pandas as pd  # isort: skip

PLAY, LIKE, HIDE = (
    event_pb2.EVENT_KIND_PLAY,
    event_pb2.EVENT_KIND_LIKE,
    event_pb2.EVENT_KIND_HIDE,
)
LIKED_BY_FRACTION = EventRules(liked_fraction=0.8)


def empty_repository(
    folder: Path,
    settings: OnlineStoreSettings | None = None,
    rules: EventRules = LIKED_BY_FRACTION,
) -> Path:
    """A feature repository without any viewer."""
    folder.mkdir(parents=True)
    rules.write(folder)
    project = f"vireo_{folder.name}_{secrets.token_hex(4)}"
    write_configuration(folder, project, settings or OnlineStoreSettings())
    apply_definitions(folder)
    return folder


def event(
    viewer: str, video: str, kind: Any = PLAY, at: float | None = None, **more: Any
) -> event_pb2.Event:
    """An event at a time in Unix seconds, or of now."""
    made = event_pb2.Event(
        event_id=f"{viewer} {video}", viewer_id=viewer, video_id=video, kind=kind, **more
    )
    made.time.FromNanoseconds(round((time.time() if at is None else at) * 1e9))
    return made


def events_in_disorder(interactions: pd.DataFrame, seed: int) -> list[event_pb2.Event]:
    """A data set's interactions as events: a fifth of them twice, in any order."""
    events = list(interaction_events("small", interactions))
    chance = random.Random(seed)
    events += [event for event in events if chance.random() < 0.2]
    chance.shuffle(events)
    return events


def parts(events: Sequence[event_pb2.Event], size: int) -> Iterable[Sequence[event_pb2.Event]]:
    """The events, some at a time."""
    return (events[start : start + size] for start in range(0, len(events), size))


def message(events: Iterable[event_pb2.Event]) -> bytes:
    """A message of stream EVENTS."""
    recorded = log_pb2.RecordedEvents(events=events)
    recorded.received_at.GetCurrentTime()
    return recorded.SerializeToString()
