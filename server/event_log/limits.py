"""Limits of streams by the settings: for how long messages are kept, how many, and how often."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from vireo.server.errors import VireoError
from vireo.server.event_log.log import EVENTS, Stream
from vireo.server.event_log.settings import EventLogSettings

Limits = Literal["keep", "set", "force"]
"""Whether streams that are there keep their limits, get those of the settings unless that loses
something, or get them anyway."""
_DUPLICATES_SECONDS, _NANOSECONDS = 3600.0, 1_000_000_000
_DEAD_BYTES = 1 << 30
"""Maximum bytes of dead letters; beyond it the oldest go."""


def limits_of(stream: Stream, settings: EventLogSettings) -> dict[str, int]:
    """Return the fields of a stream's configuration that follow from the settings."""
    replicas, retention = {"num_replicas": settings.event_replicas}, settings.event_retention
    if stream.compacted:
        return replicas
    return replicas | {
        "max_age": int(retention * _NANOSECONDS),
        "max_bytes": settings.event_max_bytes if stream is EVENTS else _DEAD_BYTES,
        "duplicate_window": int(min(_DUPLICATES_SECONDS, retention) * _NANOSECONDS),
    }


def check_nothing_lost(wanted: Mapping[str, int], info: Mapping[str, Any]) -> None:
    """Raise VireoError if limits would delete messages or copies of a stream, or leave no room.

    `info` has the stream's configuration and state, as JetStream describes them.
    """
    now, state = info["config"], info["state"]
    shorter = wanted.get("max_age", now["max_age"]) != now["max_age"] and state["messages"]
    first = datetime.fromisoformat(state["first_ts"]).timestamp()
    if (new := wanted["num_replicas"]) < (has := now["num_replicas"]):
        setting, loss = "VIREO_EVENT_REPLICAS", "servers would delete their copies"
    elif (new := wanted.get("max_bytes", state["bytes"])) < state["bytes"]:
        setting, has = "VIREO_EVENT_MAX_BYTES", now["max_bytes"]
        loss = f"every event would be refused, since {state['bytes']} bytes are there"
    elif shorter and time.time() - first > (new := wanted["max_age"] // _NANOSECONDS):
        setting, has = "VIREO_EVENT_RETENTION", now["max_age"] // _NANOSECONDS
        loss = f"messages would be deleted, since the first is of {state['first_ts']}"
    else:
        return
    limit = "no limit" if has <= 0 else has  # as somebody else made it, which no setting says
    remedy = "more" if has <= 0 else has
    raise VireoError(
        f"{setting}={new}, but stream {now['name']} has {limit}, and {loss}; set it to {remedy}, "
        f"or accept that: {setting}={new} vireo events limits --apply"
    )
