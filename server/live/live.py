"""Follows the log: keeps the overlay and the live videos of all releases in memory current."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Gauge

from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, REMOVED, STATE, LogAwayError, Position
from vireo.server.live.settings import TRENDING_HALF_LIFE, LiveSettings
from vireo.server.recommend.catalogue.overlay import Overlay, Takedowns
from vireo.server.recommend.catalogue.trends import Trends
from vireo.server.releases.layout import TAKEDOWNS

if TYPE_CHECKING:
    # It imports ONNX Runtime, which gateways don't have.
    from vireo.server.recommend.catalogue.live_videos import LiveVideos
    from vireo.server.recommend.catalogue.placement import KnownVideos
    from vireo.v1.release_pb2 import GetServingReleaseResponse

log = structlog.get_logger()

MAX_BYTES = 256 << 20
"""Maximum bytes of what is known of upserted videos: their size, and 48 bytes for each tag and
label. Beyond it the oldest are dropped and counted."""
FIRST_WAIT_SECONDS = 5.0
"""Seconds without a new message after which a process that starts counts the log as away."""
_COPY_SECONDS, _IDLE_COPY_SECONDS = 1.0, 60.0
"""Minimum seconds between two copies of the takedowns, and maximum if none came."""

VIDEOS = Gauge("vireo_live_videos", "Changes of the catalogue that are remembered.", ["kind"])
DROPPED = Gauge("vireo_live_dropped_changes", "Upserts that found no room; see VIREO_LIVE_VIDEOS.")
WAITING = Gauge("vireo_live_waiting_videos", "Upserted videos that aren't placed yet.")
UNPLACED = Gauge(
    "vireo_live_unplaced_videos", "Upserted videos that the release served can't place."
)
POSITION = Gauge("vireo_live_position", "Position in the log of the catalogue's changes.")
SILENT = Gauge(
    "vireo_live_silent_seconds",
    "Seconds since the log was last read: under 60 while it responds; -1 if it never was.",
)
TAKEDOWNS_AGE = Gauge(
    "vireo_live_takedowns_age_seconds",
    "Seconds since all takedowns were known: under 60 while the log responds; -1 if never.",
)


class Live:
    """What a process follows of the log. Use it from one event loop; threads may wait for it."""

    def __init__(
        self,
        event_log: JetStreamLog,
        settings: LiveSettings,
        copy: Path | None = None,
        *,
        videos: bool = True,
    ) -> None:
        """Start with the takedowns of the last local copy.

        Args:
            event_log: the log.
            settings: bounds.
            copy: file of that copy, which the processes of a machine share; None for none.
            videos: whether to keep what is known of upserted videos; which were upserted or
                removed is always remembered.
        """
        takedowns = _copied(copy)
        self.overlay = Overlay(settings.live_videos, MAX_BYTES, takedowns, contents=videos)
        self.trends = Trends(TRENDING_HALF_LIFE)
        self._log, self._copy, self._videos = event_log, copy, videos
        self._followed: weakref.WeakSet[LiveVideos] = weakref.WeakSet()
        self.caught_up = threading.Event()
        """Set once all changes of the catalogue were read."""
        self.takedowns_read = threading.Event()
        """Set once all takedowns were read."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._uncopied = False
        """Whether it has read on since the last copy of the takedowns, once it had read all."""
        self._last_read_at: float | None = None
        self._away_at = -math.inf
        """When the log was found away, on the monotonic clock."""
        self._export()

    async def run(self) -> None:
        """Follow the log until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_takedowns())
            tasks.create_task(self._keep_copy())
            tasks.create_task(self._follow_catalogue())
            if self._videos:
                tasks.create_task(self._follow_trends())
                tasks.create_task(self._place())

    def wait(self, folder: Path, silence: float = FIRST_WAIT_SECONDS) -> None:
        """Return once a release may be served: all takedowns are known. Call it in a thread.

        While the log is away they are those of the local copy and of the release, and may be old:
        see `describe`. The catalogue's changes are waited for, too: filters judge videos by them,
        and they say when one is published.

        Args:
            folder: the release's.
            silence: seconds without a message that is new after which the log counts as away.

        Raises:
            VireoError: the log is away, and there is no other set of takedowns.
        """
        takedowns = self.overlay.takedowns
        if (folder / TAKEDOWNS).exists():
            takedowns.merge_copy(Takedowns.read(folder / TAKEDOWNS))
        read = takedowns.position, self.overlay.position
        if time.monotonic() - self._away_at < silence:
            silence = 0.0  # a release that has several parts waits for the log once
        while not (self.takedowns_read.wait(silence) and self.caught_up.wait(silence)):
            before, read = read, (takedowns.position, self.overlay.position)
            if read != before:
                continue  # it is long
            if not takedowns.as_of:
                raise VireoError(
                    "takedowns can't be read: the log is away, and neither this machine nor the "
                    "release has a copy of them"
                )
            seconds = round(time.time() - takedowns.as_of)
            log.warning("the log is away: changes may be missing", takedowns_age_seconds=seconds)
            self._away_at = time.monotonic()
            return

    def live_videos(self, known: KnownVideos, folder: Path) -> LiveVideos:
        """Return the live videos of a release, and keep them current while they are used.

        Call it in a thread. They are placed by the event loop, as later ones are: so only one
        thread ever changes them or the overlay.

        Args:
            known: the release's videos. If none has features, nothing is ranked.
            folder: the release's, which may be served then; see `wait`.
        """
        from vireo.server.recommend.catalogue.live_videos import LiveVideos  # not in gateways

        self.wait(folder)
        merged = self.merged(known.position)
        ranked = known.features is not None
        made = LiveVideos(self.overlay, self.trends, known, merged=merged, ranked=ranked)
        assert self._loop is not None, "it runs"
        asyncio.run_coroutine_threadsafe(self._adopt(made), self._loop).result()
        return made

    def merged(self, release: Position) -> int:
        """Return the sequence up to which a release has the changes.

        0 if it is of another log, or nothing is known of it: then all count as later. Call it in a
        thread.
        """
        assert self._loop is not None, "it runs"
        asked = asyncio.run_coroutine_threadsafe(self._log.resume(CATALOG, release), self._loop)
        try:
            start = asked.result()
        except LogAwayError:  # as far as it was read before
            read = 0 if self.overlay.lost else self.overlay.position
            return release.sequence if release.sequence <= read else 0
        return start.after or start.replaced

    async def _adopt(self, videos: LiveVideos) -> None:
        """Follow for some live videos too; return once none waits for its place."""
        self._followed.add(videos)
        for _ in videos.catch_up():
            await asyncio.sleep(0)
        while True:
            if not (busy := self._place_some()):
                return
            await asyncio.sleep(busy)

    def describe(self, response: GetServingReleaseResponse) -> None:
        """Add to a process's description of its release up to when it knows the takedowns."""
        if as_of := self.overlay.takedowns.as_of:
            response.takedowns_as_of.FromNanoseconds(int(as_of * 1e9))

    async def _follow_takedowns(self) -> None:
        takedowns = self.overlay.takedowns
        async for entries in self._log.read(REMOVED, after=takedowns.position):
            self._last_read_at = time.monotonic()
            self.overlay.take_takedowns(entries)
            self._take_changes()
            if not entries:
                self.takedowns_read.set()
            if self.takedowns_read.is_set():
                takedowns.as_of, self._uncopied = time.time(), True
            await asyncio.sleep(0)

    async def _keep_copy(self) -> None:
        """Keep the local copy of the takedowns current.

        While the log is away nothing is written: other processes may have a newer copy there.
        """
        takedowns, copied, copied_at = self.overlay.takedowns, None, 0.0
        while self._copy is not None:
            position = takedowns.position
            idle = time.monotonic() - copied_at >= _IDLE_COPY_SECONDS
            if self._uncopied and (idle or position != copied):
                self._uncopied, copied, copied_at = False, position, time.monotonic()
                try:
                    await asyncio.to_thread(takedowns.write, self._copy)
                except OSError as error:
                    log.error("the takedowns can't be copied", reason=str(error))
            await asyncio.sleep(_COPY_SECONDS)

    async def _follow_catalogue(self) -> None:
        async for entries in self._log.read(CATALOG):
            self._last_read_at = time.monotonic()
            if not entries:
                self.caught_up.set()
                continue
            self.overlay.take(entries)
            self._take_changes()
            await asyncio.sleep(0)  # calls are answered between two parts of a long log

    async def _follow_trends(self) -> None:
        async for entries in self._log.read(STATE):
            for entry in entries:
                self.trends.update(entry.key, entry.data)
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
        """Place a few videos of a release; return the seconds it took, 0 if none is waiting.

        It keeps no reference to them: a release that is dropped is freed with its own.
        """
        for videos in list(self._followed):
            if videos.waiting:
                begun = time.monotonic()
                videos.place_some()
                return max(time.monotonic() - begun, 1e-6)
        return 0.0

    def _take_changes(self) -> None:
        if touched := self.overlay.newly_touched():
            for videos in list(self._followed):
                videos.update(touched)
        self._changed.set()

    def _export(self) -> None:
        overlay = self.overlay
        VIDEOS.labels("upserted").set_function(lambda: overlay.videos)
        VIDEOS.labels("removed").set_function(lambda: len(overlay.takedowns.keys))
        DROPPED.set_function(lambda: overlay.dropped)
        POSITION.set_function(lambda: overlay.position - overlay.lost)
        WAITING.set_function(
            lambda: max((each.waiting for each in list(self._followed)), default=0)
        )
        UNPLACED.set_function(
            lambda: max((len(each.unfit) for each in list(self._followed)), default=0)
        )
        SILENT.set_function(
            lambda: -1.0 if self._last_read_at is None else time.monotonic() - self._last_read_at
        )
        as_of = overlay.takedowns
        TAKEDOWNS_AGE.set_function(lambda: time.time() - as_of.as_of if as_of.as_of else -1.0)


def _copied(path: Path | None) -> Takedowns:
    """Return the takedowns of a local copy; none if there is none that can be read."""
    if path is not None and path.exists():
        try:
            return Takedowns.read(path)
        except VireoError as error:
            log.error("the local copy of the takedowns is left out", reason=str(error))
    return Takedowns()
