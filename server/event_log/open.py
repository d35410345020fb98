"""Opens the log that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from vireo.server.errors import VireoError
from vireo.server.event_log.settings import EventLogSettings

if TYPE_CHECKING:
    from vireo.server.event_log.jetstream import JetStreamLog
    from vireo.server.event_log.limits import Limits


def open_log(
    settings: EventLogSettings, *, read_only: bool = False, limits: Limits = "keep"
) -> JetStreamLog | None:
    """Return the log that the settings name, None if they name none; it connects when it is used.

    Args:
        settings: how to reach it, and how to make streams that aren't there.
        read_only: make no streams: they would have the settings of whoever reads. Streams that
            aren't there end at 0.
        limits: what becomes of those of streams that are there, once; consumers set them.

    Raises:
        VireoError: nats-py isn't installed.
    """
    if not settings.named:
        return None
    try:
        from vireo.server.event_log.jetstream import JetStreamLog
    except ImportError as error:
        raise VireoError("VIREO_NATS_URL needs nats-py: pip install nats-py") from error

    return JetStreamLog(settings, read_only=read_only, limits=limits)


@asynccontextmanager
async def opened_log(
    settings: EventLogSettings, *, read_only: bool = False, limits: Limits = "keep"
) -> AsyncIterator[JetStreamLog]:
    """Open the log for a block, as `open_log` does; raise VireoError if the settings name none."""
    event_log = open_log(settings, read_only=read_only, limits=limits)
    if event_log is None:
        raise VireoError("this needs the log of events: set VIREO_NATS_URL")
    try:
        yield event_log
    finally:
        await event_log.close()
