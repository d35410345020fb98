"""Follows a channel: fetches its release, builds it beside the old one, swaps one reference."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, Literal, TypeVar

import structlog
from prometheus_client import Counter

from vireo.server.backoff import backoff
from vireo.server.errors import VireoError
from vireo.server.releases.bucket import StoreError
from vireo.server.releases.cache import LoadProgress, ReleaseCache, Stage
from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.memory import return_memory
from vireo.server.releases.store import ReleaseStore

log = structlog.get_logger()

FAILURES = Counter(
    "vireo_release_load_failures",
    "Loads of a release, or reads of the channel, that failed, by stage.",
    ["stage"],
)

_MAX_UNSERVED_BACKOFF = 3.0
_MAX_LOOK_BACKOFF = 5.0
_MAX_LOAD_BACKOFF = 30.0
"""Maximum seconds between attempts: with nothing to serve, to read the channel, to load."""
_CLOSE_SECONDS = 1.0
_NICE = 19
"""With 10, p99 while releases swap was 1.41 times that before, and 1.31 with 19."""

T = TypeVar("T")
R = TypeVar("R")
Origin = Literal["s3", "cache"]


class ChannelUnsetError(ReleaseError):
    """The store responds, and the channel names no release: nothing is to be served."""


class _ChannelMovedOnError(Exception):
    """The channel names another release than the one that was being loaded."""


@dataclass(frozen=True)
class Serving(Generic[T]):
    """What is served now; a call keeps the one that it began with."""

    content: T
    release_id: str
    since: datetime
    origin: Origin
    """Source of its files: "cache" if the store could not provide a release."""


@dataclass(frozen=True)
class Failure:
    """A load, or a read of the channel, that failed."""

    reason: str
    stage: Stage
    release_id: str
    """The release that failed to load; empty if it wasn't known yet."""
    at: datetime


class LoadFailures:
    """The failures of one loader: logged once, always counted, reported while they last."""

    def __init__(self, channel: str) -> None:
        """Start without failures of `channel`, the channel that is followed."""
        self.latest: Failure | None = None
        """The latest failure; kept after a later success."""
        self.reason = ""
        """Why the latest attempt failed; empty if it succeeded."""
        self._channel = channel
        self._logged: set[str] = set()
        """Failures since the last success that are in the log."""

    def ended(self) -> None:
        """Record that an attempt succeeded."""
        self.reason = ""
        self._logged.clear()

    def report(self, error: Exception, failed: LoadProgress, before: str = "") -> None:
        """Report a failed attempt.

        Args:
            error: why it failed.
            failed: the load, in the stage that failed.
            before: why the attempt before this one failed, reported with it.
        """
        expected = isinstance(error, VireoError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        FAILURES.labels(failed.stage).inc()
        if reason not in self._logged:
            self._logged.add(reason)
            log.error(
                "release not loaded",
                channel=self._channel,
                release=failed.release_id,
                stage=failed.stage.value,
                reason=reason,
                exc_info=not expected,
            )
        self.reason = f"{before}; {reason}" if before else reason
        self.latest = Failure(self.reason, failed.stage, failed.release_id, datetime.now(UTC))


class ReleaseLoader(Generic[T]):
    """Loads the release that a channel names, and each next one; a failure keeps the old.

    At most two releases are in memory: the one that is served, and the one before it or the next
    one. The one before is kept for a while, for calls that are pinned to it and for rollbacks. If
    the store can't provide a release at the start, the one that pods of this kind served last is
    taken from the cache.

    Use it from one event loop.
    """

    def __init__(
        self,
        store: ReleaseStore,
        cache: ReleaseCache,
        *,
        channel: str,
        pod: str,
        files: Sequence[str],
        build: Callable[[Path], T],
        replay: Callable[[T], None] | None = None,
        ready: Callable[[str], Awaitable[None]] | None = None,
        wait: Callable[[str, float], Awaitable[None]] | None = None,
        poll_seconds: float = 0.5,
        keep_previous_seconds: float = 10.0,
    ) -> None:
        """Start with nothing loaded.

        Args:
            store: holds the channel and the releases.
            cache: keeps releases on this machine.
            channel: the channel to follow.
            pod: kind of pod, for example "ranking": pods of a kind need the same files.
            files: the files that `build` needs, by path in the release.
            build: builds what is served from a release's folder. Runs in a thread of its own;
                whatever it raises is a failure to load.
            replay: raises unless what was built reproduces the recorded golden outputs.
            ready: returns once it is time to swap to the release with the given id; not called for
                the first one. Must end by itself.
            wait: returns when the channel, which named the release with the given id, is to be read
                again, instead of after the given seconds. None to wait for those.
            poll_seconds: how often to read the channel.
            keep_previous_seconds: how long the previous release is kept after a swap.
        """
        self.channel = channel
        self.failures = LoadFailures(channel)
        """Failures of loading."""
        self.progress = LoadProgress()
        """Progress of the current load; its stage is SERVING if there is none."""
        self.serving: Serving[T] | None = None
        """The release that is served; None until one is loaded."""
        self.previous: Serving[T] | None = None
        """The release that was served before, while it is kept."""
        self._store = store
        # For reads that are small and soon repeated, or for which the cache can substitute.
        self._fail_fast_store = ReleaseStore(store.settings.with_short_timeouts())
        self._cache = cache
        self._pod = pod
        self._files = files
        self._build = build
        self._replay = replay
        self._ready = ready
        self._wait = wait
        self._poll_seconds = poll_seconds
        self._keep_previous_seconds = keep_previous_seconds
        self._failed = 0  # consecutive attempts
        self._failed_release = ""  # the one that the last load that failed was of
        self._recorded = ""  # the release that the cache has as the one that is served
        self._dropping: asyncio.Task[None] | None = None
        # For a load, for a download that was abandoned and is to end, and for what is short.
        self._threads = ThreadPoolExecutor(3, "release")
        sys.setswitchinterval(0.0005)  # calls would wait up to 5 ms for Python code of a load

    def find(self, release_id: str) -> Serving[T] | None:
        """Return the release in memory with this id; None if there is none."""
        for held in (self.serving, self.previous):
            if held is not None and held.release_id == release_id:
                return held
        return None

    async def run(self, on_first: Callable[[], Awaitable[None]]) -> None:
        """Follow the channel until cancelled; call `on_first` once a release is served."""
        announced = False
        try:
            while True:
                wanted = await self._attempt()
                if self.serving is not None and not announced:
                    announced = True
                    await on_first()
                await self._pause(wanted)
        finally:
            if self._dropping is not None:
                self._dropping.cancel()
            ended = asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
            await asyncio.wait([ended], timeout=_CLOSE_SECONDS)

    async def drop_previous(self) -> None:
        """Keep only what is served; return once the memory of the other is freed."""
        if self.previous is not None:
            self.previous = None
            await self._in_thread(return_memory)

    async def _attempt(self) -> str:
        """Read the channel once, and serve what it names; return that, empty if it isn't known."""
        wanted = ""
        try:
            wanted = await self._look()
            if self.serving is None or self.serving.release_id != wanted:
                await self._serve(wanted)
            await self._record(wanted)
        except Exception as error:  # noqa: BLE001
            if not isinstance(error, _ChannelMovedOnError):
                # Declared policy: whatever goes wrong with a release, the old one stays.
                if wanted and wanted != self._failed_release:
                    # Failures of other releases, or to read the channel, don't put this one off.
                    self._failed, self._failed_release = 0, wanted
                self._failed += 1
                await self._fail(error, wanted)
                return wanted
        finally:
            # A download that goes on ends at its next chunk.
            self.progress.stopped = True
            serving = self.serving.release_id if self.serving else ""
            self.progress = LoadProgress(Stage.SERVING if serving else Stage.LOOKING, serving)
        self.failures.ended()
        self._failed, self._failed_release = 0, ""
        return wanted

    async def _pause(self, wanted: str) -> None:
        """Return when it is time for the next attempt at `wanted`, or the channel names another."""
        poll = self._poll_seconds
        if not self._failed:
            # Only the channel's next change is news to a pod that serves what it names.
            if self._wait is not None and self.serving is not None:
                await self._wait(self.serving.release_id, poll)
            else:
                await asyncio.sleep(poll)
        elif self.serving is None:
            await asyncio.sleep(backoff(self._failed, 0.25, _MAX_UNSERVED_BACKOFF))
        elif not wanted:
            await asyncio.sleep(backoff(self._failed, poll, max(poll, _MAX_LOOK_BACKOFF)))
        else:
            delay = backoff(self._failed, poll, max(poll, _MAX_LOAD_BACKOFF))
            with suppress(_ChannelMovedOnError):
                await self._while_named(wanted, asyncio.sleep(delay))
                return
            self._failed, self._failed_release = 0, ""

    async def _look(self) -> str:
        """Return the release that the channel names."""
        channel = await self._in_thread(lambda: self._fail_fast_store.read_channel(self.channel))
        if channel is None:
            raise ChannelUnsetError(
                f"channel {self.channel} names no release yet; publish one with "
                f"`vireo release publish --channel {self.channel}`"
            )
        return channel.release_id

    async def _serve(self, wanted: str) -> None:
        """Serve a release: one in memory, or load it."""
        held = self.find(wanted)
        if held is not None:
            await self._swap(held.content, wanted, held.origin)
            return
        self.progress = progress = LoadProgress(Stage.VERIFYING, wanted)
        store = self._store
        if self.serving is None and not self._failed and await self._last():
            store = self._fail_fast_store
        # If the channel moves on, what has arrived is kept for the next attempt.
        folder = await self._while_named(
            wanted, self._work(lambda: self._cache.fetch(store, wanted, self._files, progress))
        )
        await self._load(wanted, "s3", folder)

    async def _record(self, release_id: str) -> None:
        """Record in the cache which release is served, so that it stays there and is found again.

        If that fails, so has the attempt: a pod that starts while S3 is down needs the record.
        """
        if self._recorded != release_id:
            await self._in_thread(lambda: self._cache.remember(self._pod, self.channel, release_id))
            await self._in_thread(self._cache.prune)
            self._recorded = release_id

    async def _load(self, release_id: str, origin: Origin, folder: Path) -> None:
        """Build what is served from a release's folder, and swap to it."""
        await self.drop_previous()
        progress = self.progress
        # A pod that serves nothing yet has no calls to delay: it builds at once.
        turn = self._cache.build_turn(progress) if self.serving else nullcontext()

        def build() -> T:
            progress.stage = Stage.BUILDING
            with turn:
                content = self._build(folder)
                if self._replay is not None:
                    progress.stage = Stage.REPLAYING
                    self._replay(content)
                return content

        await self._swap(await self._work(build), release_id, origin)

    async def _swap(self, content: T, release_id: str, origin: Origin) -> None:
        """Swap when it is time, unless the channel names another release by then."""
        before = self.serving
        if before is not None:
            self.progress.stage = Stage.WAITING
            if self._ready is not None:
                await self._while_named(release_id, self._ready(release_id))
            if not await self._is_still_named(release_id):
                raise _ChannelMovedOnError
        self.serving = Serving(content, release_id, datetime.now(UTC), origin)
        self.previous = before
        self.progress.stage = Stage.SERVING
        if self._dropping is not None:
            self._dropping.cancel()
        self._dropping = asyncio.create_task(self._drop_previous_later())
        instead_of = before.release_id if before else None
        log.info("serving release", release=release_id, origin=origin, before=instead_of)

    async def _drop_previous_later(self) -> None:
        await asyncio.sleep(self._keep_previous_seconds)
        await self.drop_previous()

    async def _while_named(self, release_id: str, work: Awaitable[R]) -> R:
        """Return the result of `work`, or end it if the channel moves on before.

        Raises:
            _ChannelMovedOnError: the channel names another release.
        """
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=self._poll_seconds)
                if not task.done() and not await self._is_still_named(release_id):
                    raise _ChannelMovedOnError
            return task.result()
        finally:
            task.cancel()

    async def _is_still_named(self, release_id: str) -> bool:
        try:
            return await self._look() == release_id
        except ChannelUnsetError:
            return False
        except StoreError:
            return True  # it was when S3 last responded

    async def _fail(self, error: Exception, wanted: str) -> None:
        """Report a failure; if nothing is served yet, serve what the cache has."""

        def report(error: Exception, before: str = "") -> None:
            stage = self.progress.stage if wanted else Stage.LOOKING
            self.failures.report(error, LoadProgress(stage, wanted), before)

        report(error)
        if self.serving is None and not isinstance(error, ChannelUnsetError):
            try:
                if last := await self._last():
                    self.progress.stopped = True  # whatever still goes on of the load that failed
                    self.progress = progress = LoadProgress(Stage.VERIFYING, last)
                    folder = await self._in_thread(
                        lambda: self._cache.fetch(None, last, self._files, progress)
                    )
                    await self._load(last, "cache", folder)
            except Exception as second:  # noqa: BLE001
                # The same policy: nothing to serve yet, but the next attempt may succeed.
                report(second, self.failures.reason)

    async def _last(self) -> str | None:
        """Return the release that pods of this kind served last; None if there is none."""
        return await self._in_thread(lambda: self._cache.last(self._pod, self.channel))

    async def _work(self, work: Callable[[], R]) -> R:
        """Run expensive work at a lower priority than requests, also those of other pods.

        The threads that verify and download inherit it. A pod that serves nothing yet runs it at
        normal priority: it has no calls, and on a busy machine the work would hardly get the
        processor.
        """
        low_priority = self.serving is not None and sys.platform == "linux"

        def prioritized() -> R:
            # On Linux each thread has a priority of its own, and none is below this one.
            if low_priority:
                os.nice(_NICE)
            return work()

        return await self._in_thread(prioritized)

    async def _in_thread(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
