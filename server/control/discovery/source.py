"""What a source of endpoints is, and the one that never changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from server.control.attempts import Attempts
from server.control.mesh import Endpoints


class Discovery(Protocol):
    """A source of endpoints."""

    @property
    def attempts(self) -> Attempts | None:
        """How it goes; None if nothing can fail."""
        ...

    def watch(self) -> AsyncIterator[Endpoints]:
        """Yield all pods now, and all of them again whenever that changes, without an end.

        What can't be read is noted in `attempts` and left out: the answer before it stays.
        """
        ...


class StaticDiscovery:
    """The pods that a setting lists."""

    def __init__(self, endpoints: Endpoints) -> None:
        """Takes the pods."""
        self.attempts = None
        self._endpoints = endpoints

    async def watch(self) -> AsyncIterator[Endpoints]:
        """Yield the pods, once."""
        yield self._endpoints
        await asyncio.Event().wait()
