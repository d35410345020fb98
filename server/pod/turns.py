"""Calls that take turns: as many at a time as a limit admits, a few others queued in order.

A call that waits for a pod that hangs keeps its turn, but doesn't block others: as long as they
are quick, concurrency isn't what it waits for.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable

from server.pod.gradient import GradientLimit
from server.rpc.errors import ShedError, ShedReason

MAX_WAITING, MAX_WAITING_HANGING = 10, 40
"""Maximum calls that wait for their turn: a burst that is soon worked off; and the maximum while
some calls hang, which end many at a time."""


class Turns:
    """A queue of calls. Use it from one event loop.

    In a flood no call waits: those in the queue would be answered late, and are shed.
    """

    def __init__(self, max_calls: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with an empty queue; `max_calls` is the maximum of the concurrency limit."""
        self._clock = clock
        self.limit = GradientLimit(max_calls)
        """The concurrency limit."""
        self._begun: list[float] = []
        """Start times of the turns in use, in order."""
        self._waiting: deque[asyncio.Future[float]] = deque()

    @property
    def taken(self) -> int:
        """Number of calls that have their turn."""
        return len(self._begun)

    @property
    def waiting(self) -> int:
        """Number of calls that wait for theirs."""
        return len(self._waiting)

    def check(self, now: float) -> None:
        """Return if a call may have its turn now or wait for it.

        Raises:
            ShedError: too many are ahead of it.
        """
        self._next(now)  # first come, first served
        if not self._waiting and self._admits(now):
            return
        max_waiting = MAX_WAITING_HANGING if self._hanging(now) else MAX_WAITING
        if self.limit.flooded or len(self._waiting) >= max_waiting:
            self.limit.refused()
            raise ShedError(ShedReason.LIMIT)

    async def take(self) -> float:
        """Wait for a call's turn; return its start time, for `give_back`.

        Raises:
            ShedError: too many are ahead of it.
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
        """End a turn.

        Args:
            begun: the start time that `take` returned.
            took: the call's latency in seconds; None if it isn't a sample.
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
        """Return the call that has waited longest and is still there; None if there is none.

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
