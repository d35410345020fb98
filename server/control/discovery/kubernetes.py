"""Pods from the EndpointSlices of a Kubernetes cluster."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import structlog

from server.control.attempts import Attempts
from server.control.discovery.kubernetes_api import (
    KubernetesApiError,
    SliceView,
    VersionExpiredError,
    slice_view,
)
from server.control.discovery.kubernetes_settings import KubernetesSettings
from server.control.discovery.slices import pods_of
from server.control.mesh import Endpoints

log = structlog.get_logger()

_FIRST_RETRY_SECONDS = 0.25
_SHORTEST_WATCH_SECONDS = 1.0


class KubernetesDiscovery:
    """The pods of the Services that the settings name: listed once, then watched.

    The client is the asyncio one: it runs in the event loop and never holds it up.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        """Takes the settings; nothing is asked yet."""
        self.attempts = Attempts("kubernetes")
        self._settings = settings
        self._failures = 0
        """How many attempts in a row have come to nothing."""

    async def watch(self) -> AsyncIterator[Endpoints]:
        """The pods that are ready, and again after each change."""
        known: Endpoints | None = None
        while True:
            # Declared policy: an API that can't be asked takes no pod away.
            with self.attempts.contained():
                try:
                    async with (
                        slice_view(self._settings) as view,
                        aclosing(self._follow(view)) as steps,
                    ):
                        async for _ in steps:
                            pools, port_name = self._settings.pools, self._settings.port_name
                            found = pods_of(view.slices.values(), pools, port_name)
                            if view.followed:
                                self.attempts.succeeded(found.flaws)
                            if found.endpoints != known:
                                known = found.endpoints
                                yield known
                except VersionExpiredError as error:
                    # The ordinary end of a watch that was cut off for long: list again.
                    source = self.attempts.source
                    log.info("pods are listed again", source=source, reason=str(error))
            await asyncio.sleep(self._delay())

    async def _follow(self, view: SliceView) -> AsyncGenerator[None, None]:
        """Yields whenever the view is up to date; raises KubernetesApiError when it can't be."""
        await view.list()
        yield
        while True:
            began = time.monotonic()
            heard = False
            async with aclosing(view.watch()) as watch:
                async for spoken in watch:
                    if spoken:
                        heard, self._failures = True, 0
                    yield
            if not heard and time.monotonic() - began < _SHORTEST_WATCH_SECONDS:
                # Without a pause between them such watches would be a flood.
                raise KubernetesApiError("watching: the API ends watches as soon as they begin")
            self._failures = 0
            yield

    def _delay(self) -> float:
        """Seconds to the next attempt, at random so that control planes don't come all at once."""
        longest = min(self._settings.retry_seconds, _FIRST_RETRY_SECONDS * 2.0**self._failures)
        self._failures = min(self._failures + 1, 20)
        return random.uniform(longest / 2, longest)  # noqa: S311
