"""Follows a channel: fetches its release, builds it beside the old one, swaps one reference."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, Literal, TypeVar

import structlog

from server.errors import VireoError
from server.releases.cache import ReleaseCache
from server.releases.manifest import ReleaseError
from server.releases.store import ReleaseStore

log = structlog.get_logger()

T = TypeVar("T")
R = TypeVar("R")

_FIRST_DELAY = 0.25
_LONGEST_DELAY = 30.0


class ChannelUnsetError(ReleaseError):
    """The store answers, and the channel names no release: nothing is to be served."""


@dataclass(frozen=True)
class Serving(Generic[T]):
    """What is served now. A call takes it once and keeps to it until it has answered."""

    content: T
    release_id: str
    since: datetime
    origin: Literal["s3", "cache"]
    """Where its files came from: "cache" when the store could not give a release."""


class ReleaseLoader(Generic[T]):
    """Loads the release that a channel names, and each next one; a failure keeps the old.

    Where the store can't give a release at the start, the one that pods of this kind served
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
        poll_seconds: float = 3.0,
    ) -> None:
        """Takes what to follow and how to build it; nothing is loaded yet.

        Args:
            store: where the channel and the releases are.
            cache: where they are kept on this machine.
            channel: the channel to follow.
            pod: kind of pod, for example "ranking": pods of a kind need the same files.
            files: the files that `build` needs, by path in the release.
            build: makes what is served out of a release's folder, goldens replayed. Runs in
                a thread of its own; whatever it raises is a failure to load.
            poll_seconds: how often to look at the channel.
        """
        self.channel = channel
        self.serving: Serving[T] | None = None
        """What is served; None until a release is loaded."""
        self.last_failure = ""
        """Why the latest attempt failed; empty when it did not."""
        self._store = store
        self._cache = cache
        self._pod = pod
        self._files = files
        self._build = build
        self._poll_seconds = poll_seconds
        # Failures since the last success that are in the log: each is logged once.
        self._reported: set[str] = set()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="release")

    async def run(self, on_first: Callable[[], Awaitable[None]]) -> None:
        """Follows the channel until cancelled; calls `on_first` once a release is served."""
        failures = 0
        announced = False
        while True:
            failures = 0 if await self._attempt() else failures + 1
            if self.serving is not None and not announced:
                announced = True
                await on_first()
            await asyncio.sleep(self._delay(failures))

    def _delay(self, failures: int) -> float:
        """Seconds to the next look: never long while there is nothing to serve."""
        if not failures:
            return self._poll_seconds
        longer = 2.0 ** min(failures - 1, 10)
        if self.serving is None:
            return min(_FIRST_DELAY * longer, self._poll_seconds)
        return min(self._poll_seconds * longer, max(self._poll_seconds, _LONGEST_DELAY))

    async def _attempt(self) -> bool:
        """Looks at the channel once, and loads what it names if that isn't served yet."""
        try:
            await self._follow()
        except Exception as error:  # noqa: BLE001
            # Declared policy: whatever goes wrong with a release, the old one goes on.
            self._report(error)
            if self.serving is None and not isinstance(error, ChannelUnsetError):
                await self._fall_back()
            return False
        self.last_failure = ""
        self._reported.clear()
        return True

    async def _follow(self) -> None:
        channel = await self._off_loop(lambda: self._store.read_channel(self.channel))
        if channel is None:
            raise ChannelUnsetError(
                f"channel {self.channel} names no release yet; publish one with "
                f"`vireo release publish --promote {self.channel}`"
            )
        if self.serving is None or self.serving.release_id != channel.release_id:
            release_id = channel.release_id
            await self._load(
                release_id,
                "s3",
                lambda: self._cache.fetch(self._store, release_id, self._files),
            )

    async def _fall_back(self) -> None:
        """Serves the cached release that was served last, where there is one."""
        try:
            release_id = self._cache.last(self._pod, self.channel)
            if release_id is None:
                return
            await self._load(release_id, "cache", lambda: self._cache.open(release_id, self._files))
        except Exception as error:  # noqa: BLE001
            # The same policy: nothing to serve yet, but the next attempt may succeed.
            first = self.last_failure
            self._report(error)
            self.last_failure = f"{first}; {self.last_failure}"

    async def _load(
        self, release_id: str, origin: Literal["s3", "cache"], folder: Callable[[], Path]
    ) -> None:
        content = await self._off_loop(lambda: self._build(folder()))
        before = self.serving
        self.serving = Serving(content, release_id, datetime.now(UTC), origin)
        await self._off_loop(lambda: self._cache.remember(self._pod, self.channel, release_id))
        log.info(
            "serving release",
            release=release_id,
            origin=origin,
            before=before.release_id if before else None,
        )

    async def _off_loop(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _report(self, error: Exception) -> None:
        reason = str(error) if isinstance(error, VireoError) else f"{type(error).__name__}: {error}"
        if reason not in self._reported:
            self._reported.add(reason)
            still = self.serving.release_id if self.serving else None
            log.error(
                "release not loaded",
                channel=self.channel,
                reason=reason,
                still_serving=still,
                exc_info=not isinstance(error, VireoError),
            )
        self.last_failure = reason
