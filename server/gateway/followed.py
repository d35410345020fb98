"""What a gateway follows of the log: consumers' progress, and which videos changed or went."""

from __future__ import annotations

import asyncio
from collections.abc import Set

import structlog

from server.event_log.log import EventLog
from server.event_log.position import Position
from server.gateway.progress import Progress
from server.gateway.settings import GatewaySettings
from server.live.live import FIRST_WAIT_SECONDS, Live

log = structlog.get_logger()


class LogFollower:
    """What the log says. Use it from one event loop."""

    def __init__(self, event_log: EventLog, settings: GatewaySettings) -> None:
        """Start with nothing read."""
        self._live = Live(event_log, settings.live, videos=False)
        partitions = settings.event_log.event_partitions
        self.progress = Progress(event_log, partitions, settings.max_events_lag)

    async def run(self) -> None:
        """Follow the log until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._live.run())
            tasks.create_task(self.progress.follow())

    def wait(self, seconds: float = FIRST_WAIT_SECONDS) -> None:
        """Return once the removed videos are known, at most `seconds` later. Call it in a thread.

        Without the log, those that are removed are served until it is back.
        """
        if not self._live.caught_up.wait(seconds):
            log.warning("the catalogue's changes can't be read: removed videos may be served")

    @property
    def removed(self) -> Set[int]:
        """Keys of the videos that were removed from the catalogue, until they are upserted again.

        What is returned changes with them.
        """
        return self._live.overlay.removed_keys

    def changed(self, key: int, position: Position) -> bool:
        """Return whether a video changed after a position in the log of the catalogue's changes."""
        return self._live.overlay.changed_after(key, position)
