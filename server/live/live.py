"""Follows the log: keeps the overlay and the side tables of all releases in memory current."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Gauge

from server.event_log.log import CATALOG, STATE, EventLog
from server.live.overlay import Overlay
from server.live.settings import LiveSettings
from server.live.trends import Trends

if TYPE_CHECKING:
    # It imports ONNX Runtime, which gateways don't have.
    from server.live.side import SideTable

log = structlog.get_logger()

FIRST_WAIT_SECONDS = 5.0
"""Maximum seconds that a starting pod waits until it has read the catalogue's changes."""

VIDEOS = Gauge("vireo_live_videos", "Changes of the catalogue that are remembered.", ["kind"])
DROPPED = Gauge(
    "vireo_live_dropped_changes",
    "Changes of the catalogue that found no room; see VIREO_LIVE_VIDEOS.",
)
WAITING = Gauge("vireo_live_waiting_videos", "Upserted videos that aren't placed yet.")
UNPLACED = Gauge(
    "vireo_live_unplaced_videos", "Upserted videos that the release served can't place."
)
POSITION = Gauge("vireo_live_position", "Position in the log of the catalogue's changes.")
SILENT = Gauge(
    "vireo_live_silent_seconds",
    "Seconds since the log was last read: under 60 while it responds; -1 if it never was.",
)


class Live:
    """What a process follows of the log. Use it from one event loop, but for `side_table`."""

    def __init__(
        self,
        event_log: EventLog,
        settings: LiveSettings,
        *,
        videos: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with nothing read.

        Args:
            event_log: the log.
            settings: bounds.
            videos: whether to keep what is known of upserted videos; which were upserted or
                removed is always remembered.
            clock: monotonic seconds.
        """
        self.overlay = Overlay(settings.live_videos, contents=videos)
        self.trends = Trends(settings.trending_half_life)
        self._log, self._videos, self._clock = event_log, videos, clock
        self._tables: weakref.WeakSet[SideTable] = weakref.WeakSet()
        self._dropped: dict[SideTable, list[int]] = {}
        """For each table that is being completed, what the overlay has dropped meanwhile."""
        self.caught_up = threading.Event()
        """Set once all changes of the catalogue were read."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._heard_at: float | None = None
        self._export()

    async def run(self) -> None:
        """Follow the log until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_catalogue())
            if self._videos:
                tasks.create_task(self._follow_trends())
                tasks.create_task(self._place())

    def complete(self, table: SideTable, wait: float = FIRST_WAIT_SECONDS) -> SideTable:
        """Bring a new table up to date, and keep it so as long as it is used. Call it in a thread.

        A process that just started waits for the log, at most `wait` seconds; without it the
        table follows once the log is back.
        """
        if not self.caught_up.wait(wait):
            log.warning("the catalogue's changes can't be read: a release is served without them")
        self._dropped[table] = []
        try:
            table.take_changes()
            while table.place_some():
                pass
        except BaseException:
            del self._dropped[table]
            raise
        if self._loop is None:  # nothing is followed
            del self._dropped[table]
        else:
            self._loop.call_soon_threadsafe(self._adopt, table)
        return table

    def _adopt(self, table: SideTable) -> None:
        self._tables.add(table)
        # What changed meanwhile; what was dropped may have come again.
        dropped = self._dropped.pop(table)
        table.forget([key for key in dropped if self.overlay.get(key) is None])
        table.take_changes()
        self._changed.set()

    async def _follow_catalogue(self) -> None:
        async for entries in self._log.read(CATALOG):
            self._heard_at = self._clock()
            if not entries:
                self.caught_up.set()
                continue
            self.overlay.take(entries)
            self._take_changes()
            await asyncio.sleep(0)  # calls are answered between two parts of a long log

    async def _follow_trends(self) -> None:
        async for entries in self._log.read(STATE):
            for entry in entries:
                self.trends.hear(entry.key, entry.data)
                await asyncio.sleep(0)  # it takes up to 2 ms

    async def _place(self) -> None:
        """Place videos in small parts, with as much time for calls between them."""
        while True:
            await self._changed.wait()
            busy = self._place_some()
            if not busy:
                self._changed.clear()
            await asyncio.sleep(busy)

    def _place_some(self) -> float:
        """Place a few videos of a table; return the seconds it took, 0 if none is waiting.

        It keeps no reference to a table: a release that is dropped is freed with its own.
        """
        for table in list(self._tables):
            if table.waiting:
                begun = self._clock()
                table.place_some()
                return max(self._clock() - begun, 1e-6)
        return 0.0

    def _take_changes(self) -> None:
        dropped = self.overlay.newly_dropped()
        for meanwhile in list(self._dropped.values()):
            meanwhile.extend(dropped)
        for table in list(self._tables):
            table.forget(dropped)
            table.take_changes()
        self._changed.set()

    def _export(self) -> None:
        overlay = self.overlay
        VIDEOS.labels("upserted").set_function(lambda: overlay.videos)
        VIDEOS.labels("removed").set_function(lambda: overlay.removals)
        DROPPED.set_function(lambda: overlay.dropped)
        POSITION.set_function(lambda: overlay.position - overlay.lost)
        WAITING.set_function(lambda: sum(table.waiting for table in list(self._tables)))
        UNPLACED.set_function(
            lambda: max((len(table.unplaced) for table in list(self._tables)), default=0)
        )
        SILENT.set_function(
            lambda: -1.0 if self._heard_at is None else self._clock() - self._heard_at
        )
