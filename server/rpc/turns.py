"""Calls that take turns: as many at a time as a limit lets in, a few others after them in order."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from server.rpc.errors import ShedError, ShedReason
from server.rpc.gradient import GradientLimit

ROOM = 10
"""Calls that may wait for their turn: a burst, and no more than are soon worked off."""


class Turns:
    """Whose turn it is. Use it from one event loop.

    In a flood nobody waits: those who do already would be answered late, and are shed.
    """

    def __init__(self, most: int) -> None:
        """Takes the most calls that may ever have their turn at a time."""
        self.limit = GradientLimit(most)
        """How many have their turn at a time."""
        self.taken = 0
        """Calls that have their turn."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Calls that have yet to have theirs."""
        return len(self._waiting)

    async def take(self) -> None:
        """Returns when it is a call's turn, which must then be given back.

        Raises:
            ShedError: too many are before it.
        """
        now = time.monotonic()
        self._next(now)  # first come, first served
        if not self._waiting and self.limit.admits(now, self.taken):
            self.taken += 1
            return
        if self.limit.flooded or len(self._waiting) >= ROOM:
            self.limit.refused()
            raise ShedError(ShedReason.LIMIT)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled() and turn.exception() is None:
                self.give_back(None)  # it had its turn at the same moment
            raise

    def give_back(self, took: float | None) -> None:
        """Ends a turn; `took` is how many seconds the call took, None where that tells nothing."""
        now = time.monotonic()
        self.taken -= 1
        self.limit.ended(now, took)
        if self.limit.flooded:
            while self._waiting:
                self.limit.refused()
                self._waiting.popleft().set_exception(ShedError(ShedReason.LIMIT))
        self._next(now)

    def _next(self, now: float) -> None:
        while self._waiting and self.limit.admits(now, self.taken):
            self.taken += 1
            self._waiting.popleft().set_result(None)
