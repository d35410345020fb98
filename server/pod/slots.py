"""Slots for the slates that a gateway works on at a time, fair between callers.

A fixed number of slates is in progress, and as many calls wait; others are shed. A slate that takes
longer than `HOLD_SECONDS` goes on without its slot: it waits for a pod that is slow or hangs, which
must not close the gateway for others. Nothing is learnt that could be wrong later: an overload ends
with its cause, also if callers repeat at once what was shed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from vireo.server.rpc.errors import ShedError, ShedReason

HOLD_SECONDS = 0.2
"""Maximum seconds for which a slate holds its slot: with 0.5 a pod that was 50 times slower than
others filled the slots before Envoy left it out."""


@dataclass(eq=False)
class Slot:
    """The slot of a slate in progress, or what a call waits for."""

    caller: str
    granted: asyncio.Future[bool]
    """Whether the call got its slot; False if it was shed."""
    expiry: asyncio.TimerHandle | None = None
    """Frees the slot if the slate takes too long."""


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
        self._queue: list[Slot] = []

    @property
    def held(self) -> int:
        """Number of slots that are held."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a slot."""
        return len(self._queue)

    def check(self, caller: str) -> Slot | None:
        """Return the waiting call that one of this caller would replace; None if there is room.

        Raises:
            ShedError: there is no room, and it wouldn't be fairer to replace one.
        """
        if self.waiting < self.size:
            return None
        waits = Counter(each.caller for each in self._queue)
        greediest, most = waits.most_common(1)[0]
        if waits[caller] + 1 >= most:
            raise ShedError(ShedReason.LIMIT)
        return next(each for each in reversed(self._queue) if each.caller == greediest)

    async def take(self, caller: str) -> Slot:
        """Return a slot for a call of this caller, once there is one; `give_back` ends it.

        Raises:
            ShedError: too many calls wait, or another caller's call replaced this one.
        """
        if replaced := self.check(caller):
            self._queue.remove(replaced)
            self._settle(replaced, granted=False)
        slot = Slot(caller, asyncio.get_running_loop().create_future())
        self._queue.append(slot)
        self._grant()
        try:
            if not await slot.granted:
                raise ShedError(ShedReason.LIMIT)
        except asyncio.CancelledError:
            self.give_back(slot)
            raise
        return slot

    def give_back(self, slot: Slot) -> None:
        """End a call's hold of its slot, or its wait for it."""
        if slot.expiry is not None:
            slot.expiry.cancel()
        for each in (self._held, self._queue):
            if slot in each:
                each.remove(slot)
        self._grant()

    def _grant(self) -> None:
        """Give free slots to calls that wait."""
        while self._queue and self.held < self.size:
            holds = Counter(each.caller for each in self._held)
            slot = min(self._queue, key=lambda each: holds[each.caller])
            self._queue.remove(slot)
            if self._settle(slot, granted=True):
                self._held.append(slot)
                loop = slot.granted.get_loop()
                slot.expiry = loop.call_later(self._hold_seconds, self.give_back, slot)

    def _settle(self, slot: Slot, *, granted: bool) -> bool:
        """Return whether the call still waited, which now hears what became of it."""
        if slot.granted.done():  # it was cancelled, and its task has yet to run
            return False
        slot.granted.set_result(granted)
        return True
