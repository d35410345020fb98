"""Limits of streams by the settings: for how long messages are kept, how many, and how often."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from server.errors import VireoError
from server.event_log.log import DEAD, EVENTS, Stream
from server.event_log.settings import EventLogSettings

_DUPLICATES_SECONDS = 3600.0
_DEAD_BYTES = 1 << 30
"""Maximum bytes of dead letters; beyond it the oldest go."""
_NANOSECONDS = 1_000_000_000


def limits_of(stream: Stream, settings: EventLogSettings) -> dict[str, int]:
    """Return the fields of a stream's configuration that follow from the settings."""
    limits = {"num_replicas": settings.event_replicas}
    if not stream.compacted:
        most = {EVENTS: settings.event_max_bytes, DEAD: _DEAD_BYTES}
        limits |= {
            "max_age": int(settings.event_retention * _NANOSECONDS),
            "max_bytes": most[stream],
            "duplicate_window": int(
                min(_DUPLICATES_SECONDS, settings.event_retention) * _NANOSECONDS
            ),
        }
    return limits


def check_nothing_lost(changes: Mapping[str, int], info: Mapping[str, Any]) -> None:
    """Raise VireoError if other limits would delete messages or copies, or leave no room.

    Args:
        changes: the limits that change.
        info: the stream's configuration and state, as JetStream describes them.
    """
    now, state = info["config"], info["state"]
    wanted = {**now, **changes}
    seconds, kept = (each["max_age"] // _NANOSECONDS for each in (wanted, now))
    if wanted["num_replicas"] < now["num_replicas"]:
        setting = f"VIREO_EVENT_REPLICAS={wanted['num_replicas']}"
        has, loss = now["num_replicas"], "servers would delete their copies"
    elif 0 <= wanted["max_bytes"] < state["bytes"]:
        setting, has = f"VIREO_EVENT_MAX_BYTES={wanted['max_bytes']}", now["max_bytes"]
        loss = f"every event would be refused, since {state['bytes']} bytes are there"
    elif "max_age" in changes and state["messages"] and _age(state["first_ts"]) > seconds:
        setting, has = f"VIREO_EVENT_RETENTION={seconds}", kept
        loss = f"messages would be deleted, since the first is of {state['first_ts']}"
    else:
        return
    raise VireoError(
        f"{setting}, but stream {now['name']} has {has}, and {loss}; set it to {has}, or accept "
        "that: vireo events limits --apply"
    )


def _age(text: str) -> float:
    """Return the seconds since a time in RFC 3339."""
    return time.time() - datetime.fromisoformat(text).timestamp()
