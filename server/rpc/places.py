"""Places for what lasts, such as streams: one caller may have all while no other wants one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from vireo.server.rpc.errors import ShedError, ShedReason, unavailable

STREAM_RETRY = timedelta(milliseconds=100)
"""Delay before a stream is opened again: many end soon."""


class Places:
    """A number of places. Use it from one event loop."""

    def __init__(self, max_places: int, retry_after: timedelta) -> None:
        """Start with all places free; who gets none is asked to come back after a while."""
        self.max_places, self._retry_after = max_places, retry_after
        self._held: dict[str, list[asyncio.Timeout]] = {}
        """By caller, the oldest first."""

    @property
    def taken(self) -> int:
        """Number of places that are taken."""
        return sum(map(len, self._held.values()))

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Hold a place for a caller during the block.

        If none is free, the caller who has the most loses the latest, unless the others would then
        have no fewer than it.

        Raises:
            RpcError: RESOURCE_EXHAUSTED if there is none for it; UNAVAILABLE, in the middle of the
                block, if another caller needs the place.
        """
        if self.taken >= self.max_places:
            fullest = max(self._held, key=lambda each: len(self._held[each]))
            if len(self._held[fullest]) < len(self._held.get(caller, ())) + 2:
                raise ShedError(ShedReason.STREAMS, self._retry_after)
            self._leave(fullest, lost := self._held[fullest][-1])
            lost.reschedule(asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(None) as mine:
                self._held.setdefault(caller, []).append(mine)
                try:
                    yield
                finally:
                    self._leave(caller, mine)
        except TimeoutError as error:
            if not mine.expired():  # it is of the block
                raise
            raise unavailable(
                "another caller needs the place; go on later", self._retry_after
            ) from error

    def _leave(self, caller: str, mine: asyncio.Timeout) -> None:
        if mine in self._held.get(caller, ()):
            self._held[caller].remove(mine)
            if not self._held[caller]:
                del self._held[caller]
