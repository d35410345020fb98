"""Calls that take turns: as many at a time as a limit lets in, a few others after them in order.

A call that waits for a pod that hangs keeps its turn, but no other from having one: others are as
quick as ever, so that it isn't the number of calls that it waits for.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable

from server.rpc.errors import ShedError, ShedReason
from server.rpc.gradient import GradientLimit

ROOM, MORE_ROOM = 10, 40
"""Calls that may wait for their turn: a burst, and no more than are soon worked off; and while some
hang, which end many at a time."""


class Turns:
    """Whose turn it is. Use it from one event loop.

    In a flood nobody waits: those who do already would be answered late, and are shed.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the most calls that may ever have their turn at a time; `clock` gives seconds."""
        self._clock = clock
        self.limit = GradientLimit(most)
        """How many have their turn at a time."""
        self._begun: list[float] = []
        """When each turn began that was not given back, in order."""
        self._waiting: deque[asyncio.Future[float]] = deque()

    @property
    def taken(self) -> int:
        """Calls that have their turn."""
        return len(self._begun)

    @property
    def waiting(self) -> int:
        """Calls that have yet to have theirs."""
        return len(self._waiting)

    def check(self, now: float) -> None:
        """Return if a call may have its turn now or wait for it.

        Raises:
            ShedError: too many are before it.
        """
        self._next(now)  # first come, first served
        if not self._waiting and self._admits(now):
            return
        room = MORE_ROOM if self._hanging(now) else ROOM
        if self.limit.flooded or len(self._waiting) >= room:
            self.limit.refused()
            raise ShedError(ShedReason.LIMIT)

    async def take(self) -> float:
        """Return when it is a call's turn, with the time, which must then be given back.

        Raises:
            ShedError: too many are before it.
        """
        now = self._clock()
        self.check(now)
        if not self._waiting and self._admits(now):
            self._begun.append(now)
            return now
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back(turn.result(), None)  # it had its turn at the same moment
            raise

    def give_back(self, begun: float, took: float | None) -> None:
        """Ends the turn that began then.

        Args:
            begun: what `take` returned.
            took: how many seconds the call took, None where that tells nothing.
        """
        now = self._clock()
        del self._begun[bisect_left(self._begun, begun)]
        self.limit.ended(now, took)
        if self.limit.flooded:
            while (turn := self._next_waiting()) is not None:
                self.limit.refused()
                turn.set_exception(ShedError(ShedReason.LIMIT))
        self._next(now)

    def _next(self, now: float) -> None:
        while self._waiting and self._admits(now):
            turn = self._next_waiting()
            if turn is not None:
                self._begun.append(now)
                turn.set_result(now)

    def _next_waiting(self) -> asyncio.Future[float] | None:
        """Return the call that has waited longest, if any, and that is still there.

        A call that was cancelled stays in the queue until its task runs.
        """
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                return turn
        return None

    def _admits(self, now: float) -> bool:
        return self.limit.admits(now, self.taken, self._hanging(now))

    def _hanging(self, now: float) -> int:
        return bisect_left(self._begun, now - self.limit.hanging)
