"""What a gateway follows of the log: the consumers' progress, and videos that were removed."""

from __future__ import annotations

import asyncio

from server.event_log.log import EventLog
from server.gateway.progress import Progress
from server.gateway.settings import GatewaySettings
from server.live.live import Live
from server.live.settings import LiveSettings


class LogFollower:
    """What the log says. Use it from one event loop."""

    def __init__(self, log: EventLog, settings: GatewaySettings) -> None:
        """Start with nothing read."""
        self._live = Live(log, LiveSettings.load(), videos=False)
        self.progress = Progress(log, settings.event_log.event_partitions, settings.max_events_lag)

    async def run(self) -> None:
        """Follow the log until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._live.run())
            tasks.create_task(self.progress.follow())

    def removed(self, key: int) -> bool:
        """Return whether a video was removed from the catalogue, until it is upserted again."""
        change = self._live.overlay.get(key)
        return change is not None and change.removed
