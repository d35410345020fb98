"""Slots for the slates that a gateway works on at a time, fair between callers.

A fixed number of slates is in progress, and as many calls wait; others are shed. A slate that takes
longer than `HOLD_SECONDS` goes on without its slot: it waits for a pod that hangs, which must not
close the gateway for the others. So a burst waits instead of being shed, callers that repeat at
once what was shed find room as soon as it is there, and nothing is learnt that could be wrong
later.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from server.rpc.errors import ShedError, ShedReason

HOLD_SECONDS = 0.5
"""Maximum seconds for which a slate holds its slot."""


@dataclass(eq=False)
class Slot:
    """The slot of one slate in progress."""

    caller: str
    expiry: asyncio.TimerHandle
    """Frees the slot if the slate takes too long."""


@dataclass(eq=False)
class _Waiting:
    """A call that waits for a slot."""

    caller: str
    slot: asyncio.Future[Slot]


class Slots:
    """The slots of a gateway and the queue for them. Use it from one event loop.

    A free slot goes to the caller that holds the fewest, and of its calls to the oldest. If the
    queue is full, a caller with less than its share in it replaces the newest call of the caller
    that has the most. A caller that is alone may hold every slot.
    """

    def __init__(self, size: int, hold_seconds: float = HOLD_SECONDS) -> None:
        """Start without calls.

        Args:
            size: number of slots, and maximum number of calls that wait for one.
            hold_seconds: seconds after which a slot is free although its slate is in progress.
        """
        self.size = size
        self._hold_seconds = hold_seconds
        self._held: list[Slot] = []
        self._queue: list[_Waiting] = []

    @property
    def held(self) -> int:
        """Number of slots that are held."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a slot."""
        return len(self._queue)

    def check(self, caller: str) -> None:
        """Return if a call of this caller would get a slot or may wait for one.

        Raises:
            ShedError: it may not.
        """
        if self.waiting >= self.size and self._replaceable(caller) is None:
            raise ShedError(ShedReason.LIMIT)

    async def take(self, caller: str) -> Slot:
        """Return a slot for a call of this caller, once there is one; `give_back` ends it.

        Raises:
            ShedError: too many calls wait, or another caller's replaced this one.
        """
        if self.held < self.size:  # so nobody waits
            return self._hold(caller)
        self.check(caller)
        if self.waiting >= self.size and (replaced := self._replaceable(caller)):
            self._queue.remove(replaced)
            if not replaced.slot.done():  # else it was cancelled, and doesn't know yet
                replaced.slot.set_exception(ShedError(ShedReason.LIMIT))
        waiting = _Waiting(caller, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        try:
            return await waiting.slot
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
            elif not waiting.slot.cancelled() and waiting.slot.exception() is None:
                self.give_back(waiting.slot.result())  # it got its slot at the same moment
            raise

    def give_back(self, slot: Slot) -> None:
        """End a call's hold of its slot."""
        slot.expiry.cancel()
        self._free(slot)

    def _hold(self, caller: str) -> Slot:
        loop = asyncio.get_running_loop()
        slot: Slot = Slot(caller, loop.call_later(self._hold_seconds, lambda: self._free(slot)))
        self._held.append(slot)
        return slot

    def _free(self, slot: Slot) -> None:
        if slot not in self._held:  # its slate took too long
            return
        self._held.remove(slot)
        while self._queue and self.held < self.size:
            holds = Counter(each.caller for each in self._held)
            following = min(self._queue, key=lambda each: holds[each.caller])
            self._queue.remove(following)
            if not following.slot.done():  # else it was cancelled, and doesn't know yet
                following.slot.set_result(self._hold(following.caller))

    def _replaceable(self, caller: str) -> _Waiting | None:
        """Return the waiting call that one of this caller replaces; None if that isn't fairer."""
        waits = Counter(each.caller for each in self._queue)
        greediest, most = waits.most_common(1)[0]
        if waits[caller] + 1 >= most:
            return None
        return next(each for each in reversed(self._queue) if each.caller == greediest)
