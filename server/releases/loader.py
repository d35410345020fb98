"""Follows a channel: fetches its release, builds it beside the old one, swaps one reference."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from server.releases.build_turn import build_turn
from server.releases.cache import CacheError, ReleaseCache
from server.releases.failures import LoadFailures
from server.releases.held import HeldReleases, Origin, Serving
from server.releases.loading_threads import LoadingThreads
from server.releases.manifest import ReleaseError
from server.releases.progress import LoadProgress, Progress, Stage
from server.releases.retries import Retries
from server.releases.store import ReleaseStore
from server.releases.store_errors import StoreError

log = structlog.get_logger()

T = TypeVar("T")
R = TypeVar("R")

__all__ = ["ChannelUnsetError", "ReleaseLoader", "Serving"]

_HASTY_SECONDS = 1.25
"""Timeout of S3 requests that aren't worth waiting for; with one retry it stays under 3 s."""


class ChannelUnsetError(ReleaseError):
    """The store responds, and the channel names no release: nothing is to be served."""


class _ChannelMovedOnError(Exception):
    """The channel names another release than the one that was being loaded."""


class ReleaseLoader(Generic[T]):
    """Loads the release that a channel names, and each next one; a failure keeps the old.

    At most two releases are in memory: the one that is served, and either the one before it or
    the next one, which is being built.

    If the store can't provide a release at the start, the one that pods of this kind served
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
            poll_seconds: how often to read the channel.
            keep_previous_seconds: how long the previous release is kept after a swap.
        """
        self.channel = channel
        self.failures = LoadFailures(channel)
        """Failures of loading."""
        self._store = store
        # For reads that are small and soon repeated, or for which the cache can substitute.
        self._hasty_store = ReleaseStore(
            store.settings.model_copy(
                update={
                    "read_timeout": min(_HASTY_SECONDS, store.settings.read_timeout),
                    "retries": min(1, store.settings.retries),
                }
            )
        )
        self._cache = cache
        self._pod = pod
        self._files = files
        self._build = build
        self._replay = replay
        self._ready = ready
        self._poll_seconds = poll_seconds
        self._progress = LoadProgress()
        self._noted = ""
        self._retries = Retries(poll_seconds)
        self._note_retries = Retries(poll_seconds)
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
                await asyncio.sleep(delay)
        finally:
            await self._close()

    async def _attempt(self) -> float:
        """Read the channel once, and load what it names; return the seconds to the next attempt."""
        wanted = ""
        try:
            wanted = await self._look()
            settled = await self._bring(wanted)
        except _ChannelMovedOnError:
            settled = True
        except Exception as error:  # noqa: BLE001
            # Declared policy: whatever goes wrong with a release, the old one stays.
            await self._fail(error, wanted)
            return self._delay(wanted)
        finally:
            serving = self.serving.release_id if self.serving else ""
            self._progress.begin(Stage.SERVING if serving else Stage.LOOKING, serving)
        if settled:
            self.failures.ended()
            self._retries.succeeded()
        return self._poll_seconds

    def _delay(self, wanted: str) -> float:
        """Return the delay after a failure, in seconds; `wanted` is empty if it isn't known."""
        if self.serving is None:
            return self._retries.unserved_failed()
        return self._retries.load_failed(wanted) if wanted else self._retries.look_failed()

    async def _look(self) -> str:
        """Return the release that the channel names."""
        channel = await self._threads.run(lambda: self._hasty_store.read_channel(self.channel))
        if channel is None:
            raise ChannelUnsetError(
                f"channel {self.channel} names no release yet; publish one with "
                f"`vireo release publish --channel {self.channel}`"
            )
        return channel.release_id

    async def _bring(self, wanted: str) -> bool:
        """Load and serve `wanted`; return False if it failed recently and isn't retried yet."""
        if self.serving is None or self.serving.release_id != wanted:
            held = self.held.find(wanted)
            if held is not None:
                await self._turn(held.content, wanted, held.origin)
            elif self.serving is not None and self._retries.is_put_off(wanted):
                return False
            else:
                store = await self._store_to_load_from()
                await self._load(wanted, "s3", await self._fetch(store, wanted))
        await self._note()
        return True

    async def _store_to_load_from(self) -> ReleaseStore:
        """Return the store, with a short timeout if the cache could serve instead."""
        if self.serving is None:
            last = await self._threads.run(lambda: self._cache.last(self._pod, self.channel))
            return self._store if last is None or self._retries.failures else self._hasty_store
        return self._store

    async def _fetch(self, store: ReleaseStore, release_id: str) -> Path:
        """Return the folder of a release; give up once the channel names another.

        Raises:
            _ChannelMovedOnError: the channel names another release by now. What has arrived
                is kept for the next attempt.
        """
        self._progress.begin(Stage.VERIFYING, release_id)
        fetching = asyncio.ensure_future(
            self._behind_answers(
                lambda: self._cache.fetch(store, release_id, self._files, self._progress)
            )
        )
        try:
            while True:
                await asyncio.wait([fetching], timeout=self._poll_seconds)
                if fetching.done():
                    return fetching.result()
                if not await self._is_still_named(release_id):
                    raise _ChannelMovedOnError
        except Exception:
            self._progress.abandon()
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
            content = await self._behind_answers(lambda: self._build(folder))
            replay = self._replay
            if replay is not None:
                self._progress.enter(Stage.REPLAYING)
                await self._behind_answers(lambda: replay(content))
        await self._turn(content, release_id, origin)

    async def _turn(self, content: T, release_id: str, origin: Origin) -> None:
        """Swap when it is time; keep the previous release for a while."""
        before = self.serving
        if before is not None:
            self._progress.enter(Stage.WAITING)
            await self._wait_for_turn(release_id)
        self.held.swap(Serving(content, release_id, datetime.now(UTC), origin))
        self._progress.enter(Stage.SERVING)
        log.info(
            "serving release",
            release=release_id,
            origin=origin,
            before=before.release_id if before else None,
        )

    async def _wait_for_turn(self, release_id: str) -> None:
        """Return when it is time to swap.

        Raises:
            _ChannelMovedOnError: the channel names another release by now.
        """
        ready = asyncio.ensure_future(self._ready(release_id) if self._ready else _at_once())
        try:
            while True:
                await asyncio.wait([ready], timeout=self._poll_seconds)
                if not await self._is_still_named(release_id):
                    raise _ChannelMovedOnError
                if ready.done():
                    ready.result()
                    return
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    async def _is_still_named(self, release_id: str) -> bool:
        try:
            return await self._look() == release_id
        except StoreError:
            return True  # it was when S3 last responded

    async def _note(self) -> None:
        """Record in the cache what is served, so that it is kept and found again."""
        assert self.serving is not None
        release_id = self.serving.release_id
        if self._noted == release_id or self._note_retries.is_put_off(release_id):
            return
        try:
            here = await self._threads.run(
                lambda: self._cache.remember(self._pod, self.channel, release_id)
            )
            if not here:  # another pod pruned it while it was built
                await self._behind_answers(
                    lambda: self._cache.fetch(self._store, release_id, self._files)
                )
            await self._threads.run(self._cache.prune)
        except (CacheError, ReleaseError, StoreError) as error:
            # Declared policy: it is served nonetheless. Without the record, a pod that starts
            # while S3 is down doesn't find it; so recording is retried.
            self._note_retries.load_failed(release_id)
            if self._note_retries.failures == 1:
                log.warning(
                    "release is served, but not noted in the cache",
                    release=release_id,
                    reason=str(error),
                )
        else:
            self._noted = release_id
            self._note_retries.succeeded()

    async def _fail(self, error: Exception, wanted: str) -> None:
        """Report a failure; if nothing is served yet, try the cache."""
        self._report(error, wanted)
        if self.serving is None and not isinstance(error, ChannelUnsetError):
            try:
                await self._fall_back()
            except Exception as second:  # noqa: BLE001
                # The same policy: nothing to serve yet, but the next attempt may succeed.
                self._report(second, wanted, self.failures.reason)

    async def _fall_back(self) -> None:
        """Serve the cached release that was served last, if there is one."""
        release_id = await self._threads.run(lambda: self._cache.last(self._pod, self.channel))
        if release_id is not None:
            self._progress.begin(Stage.VERIFYING, release_id)
            folder = await self._threads.run(
                lambda: self._cache.open(release_id, self._files, self._progress)
            )
            await self._load(release_id, "cache", folder)

    async def _behind_answers(self, work: Callable[[], R]) -> R:
        """Run expensive work at a lower priority than requests.

        A pod that serves nothing yet runs it at normal priority: it has no calls, and on a busy
        machine the work would hardly get the processor.
        """
        run = self._threads.run if self.serving is None else self._threads.run_behind_answers
        return await run(work)

    def _report(self, error: Exception, release_id: str, before: str = "") -> None:
        stage = self.progress.stage if release_id else Stage.LOOKING
        still = self.serving.release_id if self.serving else None
        self.failures.report(error, stage, release_id, still, before)

    async def _close(self) -> None:
        """Cancel what is under way: a download at its next chunk, the rest as soon as it can."""
        self._progress.stop()
        await self.held.close()
        await self._threads.close()


async def _at_once() -> None:
    """No turn to wait for."""
