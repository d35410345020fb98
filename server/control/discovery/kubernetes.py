"""Discovery of pods by the EndpointSlices of a Kubernetes cluster."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import structlog

from vireo.server.backoff import backoff
from vireo.server.control.attempts import Attempts
from vireo.server.control.discovery.kubernetes_api import (
    KubernetesApiError,
    SliceView,
    VersionExpiredError,
    slice_view,
)
from vireo.server.control.discovery.kubernetes_settings import KubernetesSettings
from vireo.server.control.discovery.slices import merged
from vireo.server.control.mesh import Endpoints

log = structlog.get_logger()

_FIRST_RETRY_SECONDS = 0.25
_MIN_WATCH_SECONDS = 1.0
"""A watch without events that ends earlier counts as a failure."""


class KubernetesDiscovery:
    """The pods of the configured Services: listed once, then watched."""

    def __init__(self, settings: KubernetesSettings) -> None:
        """Hold the settings; nothing is requested yet."""
        self.attempts = Attempts("kubernetes")
        self._settings = settings
        self._failures = 0
        """Number of consecutive failures."""

    async def watch(self) -> AsyncIterator[Endpoints]:
        """Yield the pods that are ready, and again after each change."""
        known: Endpoints | None = None
        pools = self._settings.pools.values()
        while True:
            pause = 0.0
            # Declared policy: an API that can't be reached removes no pod.
            with self.attempts.contained():
                try:
                    async with (
                        slice_view(self._settings) as view,
                        aclosing(self._follow(view)) as steps,
                    ):
                        async for _ in steps:
                            found = merged(view.slices.values(), pools)
                            if view.followed:
                                self.attempts.succeeded(found.flaws)
                            if found.endpoints != known:
                                known = found.endpoints
                                yield known
                except VersionExpiredError as error:
                    # Expected after a long interruption of a watch: list again.
                    log.info("relisting pods", source=self.attempts.source, reason=str(error))
                except KubernetesApiError as error:
                    # A throttled API that is asked again too soon stays throttled.
                    pause = error.retry_after
                    raise
            await asyncio.sleep(max(self._delay(), pause))

    async def _follow(self, view: SliceView) -> AsyncGenerator[None, None]:
        """Yield whenever the view is up to date.

        Raises:
            KubernetesApiError: listing or watching failed.
        """
        await view.list()
        yield
        while True:
            began = time.monotonic()
            received = False
            async with aclosing(view.watch()) as watch:
                async for changed in watch:
                    if changed:
                        received, self._failures = True, 0
                    yield
            if not received and time.monotonic() - began < _MIN_WATCH_SECONDS:
                # Restarting such watches without a backoff would flood the API.
                raise KubernetesApiError("watching: the API ends watches as soon as they begin")
            self._failures = 0
            yield

    def _delay(self) -> float:
        """Return the seconds to the next attempt: exponential backoff with jitter."""
        self._failures += 1
        delay = backoff(self._failures, _FIRST_RETRY_SECONDS, self._settings.max_backoff)
        return random.uniform(delay / 2, delay)  # noqa: S311
