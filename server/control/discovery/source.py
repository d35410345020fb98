"""Interface of sources of endpoints, and a static source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from vireo.server.control.attempts import Attempts
from vireo.server.control.mesh import Endpoints


class Discovery(Protocol):
    """A source of endpoints."""

    @property
    def attempts(self) -> Attempts:
        """Outcomes of reading the source."""
        ...

    def watch(self) -> AsyncIterator[Endpoints]:
        """Yield all pods, and all of them again on each change, without an end.

        Failures are recorded in `attempts`; the last known pods stay in use.
        """
        ...


class StaticDiscovery:
    """The pods that a setting lists."""

    def __init__(self, endpoints: Endpoints) -> None:
        """Hold the pods."""
        self.attempts = Attempts("list")
        self._endpoints = endpoints

    async def watch(self) -> AsyncIterator[Endpoints]:
        """Yield the pods, once."""
        self.attempts.succeeded()
        yield self._endpoints
        await asyncio.Event().wait()
