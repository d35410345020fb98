"""Times that callers give."""

from __future__ import annotations

from datetime import datetime


def check_zone(time: datetime | None) -> None:
    """Raise ValueError if a time has no time zone."""
    if time is not None and time.tzinfo is None:
        raise ValueError(f"the time {time} has no time zone")
