"""The cache's record of the release that a pod serves, so that it is kept and found again."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from vireo.server.releases.cache import CacheError, ReleaseCache
from vireo.server.releases.loading_threads import LoadingThreads
from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.retries import Retries
from vireo.server.releases.store_errors import StoreError

log = structlog.get_logger()


class ServedRecord:
    """Records what is served; a failure is retried. Use it from one event loop."""

    def __init__(
        self,
        cache: ReleaseCache,
        fetch: Callable[[str], object],
        threads: LoadingThreads,
        pod: str,
        channel: str,
        poll_seconds: float,
    ) -> None:
        """Start without a record.

        Args:
            cache: keeps the record.
            fetch: fetches a release into the cache again; may raise as `ReleaseCache.fetch` does.
            threads: run all work.
            pod: kind of pod.
            channel: the channel that it follows.
            poll_seconds: delay of the first retry.
        """
        self.release_id = ""
        """The release that was recorded last; empty if none."""
        self._cache = cache
        self._fetch = fetch
        self._threads = threads
        self._pod = pod
        self._channel = channel
        self._retries = Retries(poll_seconds)

    async def update(self, release_id: str) -> None:
        """Record that a release is served, unless it is recorded or failed to be recently."""
        if self.release_id == release_id or self._retries.is_put_off(release_id):
            return
        try:
            here = await self._threads.run(
                lambda: self._cache.remember(self._pod, self._channel, release_id)
            )
            if not here:  # another pod pruned it while it was built
                await self._threads.run(lambda: self._fetch(release_id), low_priority=True)
            await self._threads.run(self._cache.prune)
        except (CacheError, ReleaseError, StoreError) as error:
            # Declared policy: it is served nonetheless. Without the record, a pod that starts
            # while S3 is down doesn't find it; so recording is retried.
            self._retries.load_failed(release_id)
            if self._retries.failures == 1:
                log.warning(
                    "release is served, but not noted in the cache",
                    release=release_id,
                    reason=str(error),
                )
        else:
            self.release_id = release_id
            self._retries.succeeded()
