"""What a source of endpoints is, and the one that never changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from server.control.mesh import Endpoints


class Discovery(Protocol):
    """A source of endpoints."""

    def watch(self) -> AsyncIterator[Endpoints]:
        """All pods now, and all of them again whenever that changes, for as long as it is asked.

        What can't be read is logged and left out: the answer before it stays.
        """
        ...


class StaticDiscovery:
    """The pods that a setting lists."""

    def __init__(self, endpoints: Endpoints) -> None:
        """Takes the pods."""
        self._endpoints = endpoints

    async def watch(self) -> AsyncIterator[Endpoints]:
        """The pods, once."""
        yield self._endpoints
        await asyncio.Event().wait()
