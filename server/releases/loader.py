"""Follows a channel: fetches its release, builds it beside the old one, swaps one reference."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from vireo.server.backoff import backoff
from vireo.server.releases.cache import CacheError, ReleaseCache
from vireo.server.releases.held import HeldReleases, Origin, Serving
from vireo.server.releases.loading_threads import LoadingThreads, build_turn
from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.progress import LoadFailures, LoadProgress, Progress, Stage
from vireo.server.releases.store import ReleaseStore
from vireo.server.releases.store_errors import StoreError

log = structlog.get_logger()

__all__ = ["ChannelUnsetError", "ReleaseLoader", "Serving"]

_MAX_UNSERVED_BACKOFF = 3.0
_MAX_LOOK_BACKOFF = 5.0
_MAX_LOAD_BACKOFF = 30.0
"""Maximum seconds between attempts: with nothing to serve, to read the channel, to load."""

T = TypeVar("T")
R = TypeVar("R")


class ChannelUnsetError(ReleaseError):
    """The store responds, and the channel names no release: nothing is to be served."""


class _ChannelMovedOnError(Exception):
    """The channel names another release than the one that was being loaded."""


class ReleaseLoader(Generic[T]):
    """Loads the release that a channel names, and each next one; a failure keeps the old.

    At most two releases are in memory: the one that is served, and the one before it or the next
    one. If the store can't provide a release at the start, the one that pods of this kind served
    last is taken from the cache.
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
        self._progress = LoadProgress()
        self._failed = 0  # consecutive attempts
        self._put_off = ("", 0.0)  # a release that failed to load, and when it is due again
        self._recorded = ""  # the release that the cache has as the one that is served
        self._unrecorded = ""  # the release of which a warning says that it can't be recorded
        self._threads = LoadingThreads()
        self.held: HeldReleases[T] = HeldReleases(self._threads, keep_previous_seconds)
        """Releases in memory."""

    @property
    def serving(self) -> Serving[T] | None:
        """What is served; None until a release is loaded."""
        return self.held.serving

    @property
    def progress(self) -> Progress:
        """Progress of the current load; its stage is SERVING if there is none."""
        return self._progress.value

    async def run(self, on_first: Callable[[], Awaitable[None]]) -> None:
        """Follow the channel until cancelled; call `on_first` once a release is served."""
        announced = False
        try:
            while True:
                delay = await self._attempt()
                if self.serving is not None and not announced:
                    announced = True
                    await on_first()
                await self._pause(delay)
        finally:
            # A download ends at its next chunk, other work as soon as it can.
            self._progress.stop()
            await self.held.close()
            await self._threads.close()

    async def _attempt(self) -> float:
        """Read the channel once, and load what it names; return the seconds to the next attempt."""
        wanted = ""
        try:
            wanted = await self._look()
            settled = await self._serve_release(wanted)
        except _ChannelMovedOnError:
            settled = True
        except Exception as error:  # noqa: BLE001
            # Declared policy: whatever goes wrong with a release, the old one stays.
            await self._fail(error, wanted)
            return self._retry_after(wanted)
        finally:
            serving = self.serving.release_id if self.serving else ""
            self._progress.begin(Stage.SERVING if serving else Stage.LOOKING, serving)
        if settled:
            self.failures.ended()
            self._failed, self._put_off = 0, ("", 0.0)
        return self._poll_seconds

    def _retry_after(self, wanted: str) -> float:
        """Count a failure, which puts the release `wanted` off; return the delay of the next look.

        With nothing to serve, everything is tried again soon.
        """
        self._failed += 1
        poll = self._poll_seconds
        if self.serving is None:
            return backoff(self._failed, 0.25, _MAX_UNSERVED_BACKOFF)
        if not wanted:
            return backoff(self._failed, poll, max(poll, _MAX_LOOK_BACKOFF))
        if wanted != self._put_off[0]:
            self._failed = 1
        delay = backoff(self._failed, poll, max(poll, _MAX_LOAD_BACKOFF))
        self._put_off = (wanted, time.monotonic() + delay)
        return poll

    async def _pause(self, seconds: float) -> None:
        """Return when it is time for the next attempt, at the latest after `seconds` if one failed.

        Only the channel's next change is news to a pod that serves what it names.
        """
        serving = self.serving.release_id if self.serving else ""
        settled = not self._failed and self._recorded == serving
        if self._wait is not None and serving and settled:
            await self._wait(serving, seconds)
        else:
            await asyncio.sleep(seconds)

    async def _look(self) -> str:
        """Return the release that the channel names."""
        channel = await self._threads.run(lambda: self._fail_fast_store.read_channel(self.channel))
        if channel is None:
            raise ChannelUnsetError(
                f"channel {self.channel} names no release yet; publish one with "
                f"`vireo release publish --channel {self.channel}`"
            )
        return channel.release_id

    async def _serve_release(self, wanted: str) -> bool:
        """Load and serve `wanted`; return False if it failed recently and isn't retried yet."""
        if self.serving is None or self.serving.release_id != wanted:
            held = self.held.find(wanted)
            if held is not None:
                await self._swap(held.content, wanted, held.origin)
            elif self._put_off[0] == wanted and time.monotonic() < self._put_off[1]:
                return False
            else:
                await self._load(wanted, "s3", await self._fetch(wanted))
        await self._record(wanted)
        return True

    async def _record(self, release_id: str) -> None:
        """Record in the cache which release is served, so that it stays there and is found again.

        Declared policy: if that fails, the release is served nonetheless, and the next look at the
        channel tries again: a pod that starts while S3 is down needs the record.
        """
        if self._recorded == release_id:
            return
        try:
            await self._threads.run(
                lambda: self._cache.remember(self._pod, self.channel, release_id)
            )
            await self._threads.run(self._cache.prune)
        except CacheError as error:
            if self._unrecorded != release_id:
                self._unrecorded = release_id
                reason = str(error)
                log.warning("release not recorded in the cache", release=release_id, reason=reason)
        else:
            self._recorded = release_id

    async def _fetch(self, release_id: str) -> Path:
        """Return the folder of a release; give up once the channel names another.

        What has arrived is kept for the next attempt.
        """
        self._progress.begin(Stage.VERIFYING, release_id)
        store = self._store
        if self.serving is None and not self._failed and await self._last():
            store = self._fail_fast_store
        fetching = asyncio.ensure_future(
            self._work(lambda: self._cache.fetch(store, release_id, self._files, self._progress))
        )
        try:
            return await self._while_named(release_id, fetching)
        except Exception:
            self._progress.stop()
            await asyncio.gather(fetching, return_exceptions=True)
            raise
        finally:
            fetching.cancel()  # the pod stops, without waiting for S3

    async def _load(self, release_id: str, origin: Origin, folder: Path) -> None:
        """Build what is served from a release's folder, and swap to it."""
        await self.held.drop_previous()
        self._progress.enter(Stage.BUILDING)
        # A pod that serves nothing yet has no calls to delay: it builds at once.
        async with build_turn(self._cache.root) if self.serving is not None else nullcontext():
            content = await self._work(lambda: self._build(folder))
            replay = self._replay
            if replay is not None:
                self._progress.enter(Stage.REPLAYING)
                await self._work(lambda: replay(content))
        await self._swap(content, release_id, origin)

    async def _swap(self, content: T, release_id: str, origin: Origin) -> None:
        """Swap when it is time; keep the previous release for a while."""
        before = self.serving
        if before is not None:
            self._progress.enter(Stage.WAITING)
            await self._wait_until_ready(release_id)
        self.held.swap(Serving(content, release_id, datetime.now(UTC), origin))
        self._progress.enter(Stage.SERVING)
        instead_of = before.release_id if before else None
        log.info("serving release", release=release_id, origin=origin, before=instead_of)

    async def _wait_until_ready(self, release_id: str) -> None:
        """Return when it is time to swap, unless the channel names another release by then."""
        if self._ready is not None:
            ready = asyncio.ensure_future(self._ready(release_id))
            try:
                await self._while_named(release_id, ready)
            finally:
                ready.cancel()
                await asyncio.gather(ready, return_exceptions=True)
        if not await self._is_still_named(release_id):
            raise _ChannelMovedOnError

    async def _while_named(self, release_id: str, task: asyncio.Future[R]) -> R:
        """Return the task's result; raise _ChannelMovedOnError if the channel moves on before."""
        while not task.done():
            await asyncio.wait([task], timeout=self._poll_seconds)
            if not task.done() and not await self._is_still_named(release_id):
                raise _ChannelMovedOnError
        return task.result()

    async def _is_still_named(self, release_id: str) -> bool:
        try:
            return await self._look() == release_id
        except StoreError:
            return True  # it was when S3 last responded

    async def _fail(self, error: Exception, wanted: str) -> None:
        """Report a failure; if nothing is served yet, serve what the cache has."""
        self._report(error, wanted)
        if self.serving is None and not isinstance(error, ChannelUnsetError):
            try:
                if last := await self._last():
                    self._progress.begin(Stage.VERIFYING, last)
                    folder = await self._threads.run(
                        lambda: self._cache.fetch(None, last, self._files, self._progress)
                    )
                    await self._load(last, "cache", folder)
            except Exception as second:  # noqa: BLE001
                # The same policy: nothing to serve yet, but the next attempt may succeed.
                self._report(second, wanted, self.failures.reason)

    async def _last(self) -> str | None:
        """Return the release that pods of this kind served last; None if there is none."""
        return await self._threads.run(lambda: self._cache.last(self._pod, self.channel))

    async def _work(self, work: Callable[[], R]) -> R:
        """Run expensive work at a lower priority than requests.

        A pod that serves nothing yet runs it at normal priority: it has no calls, and on a busy
        machine the work would hardly get the processor.
        """
        return await self._threads.run(work, low_priority=self.serving is not None)

    def _report(self, error: Exception, release_id: str, before: str = "") -> None:
        stage = self.progress.stage if release_id else Stage.LOOKING
        still = self.serving.release_id if self.serving else None
        self.failures.report(error, stage, release_id, still, before)
