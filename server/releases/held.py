"""The releases that a process has in memory: the one served, and for a while the one before."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar

from vireo.server.releases.loading_threads import LoadingThreads
from vireo.server.releases.memory import return_memory

T = TypeVar("T")
Origin = Literal["s3", "cache"]


@dataclass(frozen=True)
class Serving(Generic[T]):
    """What is served now; a call keeps the one that it began with."""

    content: T
    release_id: str
    since: datetime
    origin: Origin
    """Source of its files: "cache" if the store could not provide a release."""


class HeldReleases(Generic[T]):
    """At most two releases. Use it from one event loop.

    The previous one is kept for calls that are pinned to it, and for rollbacks.
    """

    def __init__(self, threads: LoadingThreads, keep_previous_seconds: float) -> None:
        """Start without a release.

        Args:
            threads: threads in which to free memory.
            keep_previous_seconds: how long to keep the previous release.
        """
        self.serving: Serving[T] | None = None
        """The release that is served; None until one is loaded."""
        self.previous: Serving[T] | None = None
        """The release that was served before, while it is kept."""
        self._threads = threads
        self._keep_previous_seconds = keep_previous_seconds
        self._dropping: asyncio.Task[None] | None = None

    def find(self, release_id: str) -> Serving[T] | None:
        """Return the held release with this id; None if it isn't held."""
        for held in (self.serving, self.previous):
            if held is not None and held.release_id == release_id:
                return held
        return None

    def swap(self, to: Serving[T]) -> None:
        """Serve another release from now on; calls under way keep theirs."""
        self.serving, self.previous = to, self.serving
        if self._dropping is not None:
            self._dropping.cancel()
        self._dropping = asyncio.create_task(self._drop_previous_later())

    async def drop_previous(self) -> None:
        """Keep only what is served; return once the memory of the other is freed."""
        if self.previous is not None:
            self.previous = None
            await self._threads.run(return_memory)

    async def close(self) -> None:
        """Cancel background work."""
        if self._dropping is not None:
            self._dropping.cancel()
            await asyncio.gather(self._dropping, return_exceptions=True)

    async def _drop_previous_later(self) -> None:
        await asyncio.sleep(self._keep_previous_seconds)
        await self.drop_previous()
