"""Opens the log that the settings name."""

from __future__ import annotations

from server.event_log.log import EventLog
from server.event_log.settings import EventLogSettings


def open_log(settings: EventLogSettings, *, only_look: bool = False) -> EventLog | None:
    """Return the log that the settings name, None if they name none; it connects when it is used.

    Args:
        settings: how to reach it, and how to make streams that aren't there.
        only_look: make none: they would have the settings of whoever looks. Streams that aren't
            there end at 0.
    """
    if not settings.named:
        return None
    from server.event_log.jetstream import JetStreamLog

    return JetStreamLog(settings, only_look=only_look)
