"""Which calls a service takes on: some are worked on, as many wait, and the others are shed unread.

The rule has nothing to learn that could be wrong later: an overload ends with its cause, also if
callers repeat at once what was shed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vireo.server.rpc.caller import caller_in
from vireo.server.rpc.errors import ShedError, ShedReason
from vireo.server.rpc.reading import Metadata

HOLD_SECONDS = 0.2
"""Maximum seconds for which a slate holds its slot: with 0.5 a pod that was 50 times slower than
others filled the slots before Envoy left it out."""
MAX_WAIT = 0.1
"""Seconds for which the first of a pod's queue may have waited before further calls are shed."""
MIN_LATE = 12
"""With fewer calls in the queue, something else has the processor: to shed some helps nobody."""
MAX_CALLS = 500
"""Maximum concurrent calls of a service, those included that go on without their slot."""
_STANDING_SECONDS = 1.0
"""Seconds for which a queue counts as standing after a call was shed because of it."""

LOW_PRIORITY = ("x-vireo-priority", "low")
"""Metadata of inner calls that nobody waits for: pods answer them while they have no others."""
MAX_LOW_PRIORITY_WAIT = 0.05
"""Maximum seconds for which such a call waits for that before it is shed. Envoy would count one
that waited for longer than its try as a failure of the pod."""
MAX_LOW_PRIORITY_WAITING = 20
"""Maximum number of such calls that wait."""
_BACKGROUND_WAIT = 1.0
"""Seconds after which a piece of work in the background begins although calls are under way, so
that it ends some day: one in a second moves no 99th percentile. Not while calls wait for a slot."""
_BACKGROUND_REST, _MAX_BACKGROUND_REST = 20, 1.0
"""Rest after a piece, as a multiple of the time that it took, if calls came since the one before,
and its maximum in seconds. A piece that has begun slows calls that come in meanwhile: there must be
few of them."""


@dataclass(eq=False, slots=True)
class Slot:
    """The slot of a call, or what it waits for."""

    caller: str
    since: float
    granted: asyncio.Future[bool]
    """Whether the call got its slot; False if it was shed."""
    expiry: asyncio.TimerHandle | None = None
    """Frees the slot if the call takes too long."""


class Slots:
    """A fixed number of slots, and the queue for them. Use it from one event loop.

    A call that takes long goes on without its slot: it waits for somebody else, who must not close
    the service for others. A free slot goes to the caller that holds the fewest, and of its calls
    to the oldest. If the queue is full, a caller with less than its share in it replaces the newest
    call of the caller that has the most. A caller that is alone may hold every slot.
    """

    def __init__(
        self,
        size: int,
        hold_seconds: float = HOLD_SECONDS,
        *,
        waiting: int | None = None,
        max_wait: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without calls.

        Args:
            size: number of slots.
            hold_seconds: seconds after which a slot is free although its call goes on.
            waiting: maximum calls that wait for a slot; by default as many as there are slots.
            max_wait: seconds for which the first call in the queue may have waited while others
                are let in.
            clock: monotonic clock in seconds.
        """
        self.size = size
        self.latest_wait = 0.0
        """Seconds for which the latest call waited for its slot."""
        self._hold_seconds, self._max_wait, self._clock = hold_seconds, max_wait, clock
        self._max_waiting = size if waiting is None else waiting
        self._held: list[Slot] = []
        self._queue: list[Slot] = []
        self._shed_at = -math.inf

    @property
    def held(self) -> int:
        """Number of slots that are held."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a slot."""
        return len(self._queue)

    @property
    def standing(self) -> bool:
        """Whether a call was shed a moment ago because of the queue."""
        return self._clock() - self._shed_at < _STANDING_SECONDS

    def check(self, caller: str) -> Slot | None:
        """Return the waiting call that one of this caller would replace; None if there is room.

        Raises:
            ShedError: there is no room, and it wouldn't be fairer to replace one.
        """
        waiting = len(self._queue)
        if waiting >= MIN_LATE and self._clock() - self._queue[0].since > self._max_wait:
            raise self._shed(ShedReason.QUEUE)
        if waiting < self._max_waiting:
            return None
        waits = Counter(each.caller for each in self._queue)
        greediest, most = waits.most_common(1)[0]
        if waits[caller] + 1 >= most:
            raise self._shed(ShedReason.LIMIT)
        return next(each for each in reversed(self._queue) if each.caller == greediest)

    async def take(self, caller: str) -> Slot:
        """Return a slot for a call of this caller, once there is one; `give_back` ends it.

        Raises:
            ShedError: too many calls wait, or another caller's call replaced this one.
        """
        if replaced := self.check(caller):
            self._queue.remove(replaced)
            self._settle(replaced, granted=False)
        slot = Slot(caller, self._clock(), asyncio.get_running_loop().create_future())
        self._queue.append(slot)
        self._grant()
        try:
            if not await slot.granted:
                raise self._shed(ShedReason.LIMIT)
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
        if self._queue:
            self._grant()

    def _grant(self) -> None:
        """Give free slots to calls that wait."""
        while self._queue and len(self._held) < self.size:
            slot = self._queue[0]
            if len(self._queue) > 1:
                holds = Counter(each.caller for each in self._held)
                slot = min(self._queue, key=lambda each: holds[each.caller])
            self._queue.remove(slot)
            if self._settle(slot, granted=True):
                self._held.append(slot)
                self.latest_wait = self._clock() - slot.since
                if self._hold_seconds < math.inf:
                    loop = slot.granted.get_loop()
                    slot.expiry = loop.call_later(self._hold_seconds, self.give_back, slot)

    def _settle(self, slot: Slot, *, granted: bool) -> bool:
        """Return whether the call still waited, which now learns what became of it."""
        if slot.granted.done():  # it was cancelled, and its task has yet to run
            return False
        slot.granted.set_result(granted)
        return True

    def _shed(self, reason: ShedReason) -> ShedError:
        self._shed_at = self._clock()
        return ShedError(reason)


class Admission:
    """Admission control of one service. Use it from one event loop."""

    def __init__(
        self,
        slots: Slots,
        max_calls: int = MAX_CALLS,
        *,
        runs_in_queue: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with no calls in flight.

        Args:
            slots: those for its calls.
            max_calls: maximum concurrent calls, for the memory that they take.
            runs_in_queue: whether the service is a pod's, whose run queue takes the slots, for a
                part of each call. It then answers calls of low priority while it has no others.
            clock: monotonic clock in seconds.
        """
        self.max_calls, self.slots = max_calls, slots
        self.under_way = 0
        """Calls that are being answered."""
        self._runs_in_queue, self._clock = runs_in_queue, clock
        self._idle = asyncio.Event()
        """Set while no call is being answered."""
        self._idle.set()
        self._waiting_low_priority = 0
        self._background = asyncio.Lock()
        self._rested_at = -math.inf
        """When the next piece of work in the background may begin."""
        self._called = False
        """Whether a call was under way since the last piece ended."""

    def check(self, metadata: Metadata) -> None:
        """Return if a call with this metadata is admitted, before it is read.

        Raises:
            ShedError: it is shed.
        """
        self._check_number()
        self.slots.check(caller_in(metadata))

    @asynccontextmanager
    async def call(self, metadata: Metadata = ()) -> AsyncIterator[None]:
        """Count a call that was read as under way during the block, in its slot if it needs one.

        Raises:
            ShedError: too many calls are in flight.
        """
        if self._runs_in_queue and LOW_PRIORITY in metadata:
            await self._wait_for_others()
        self._check_number()
        self.under_way += 1
        self._called = True
        self._idle.clear()
        try:
            if self._runs_in_queue:
                yield
                return
            slot = await self.slots.take(caller_in(metadata))
            try:
                yield
            finally:
                self.slots.give_back(slot)
        finally:
            self.under_way -= 1
            if not self.under_way:
                self._idle.set()

    @asynccontextmanager
    async def background(self) -> AsyncIterator[None]:
        """Wait until no call is under way; then one piece of work in the background may be done.

        Pieces are done one after the other, with a rest after each if calls came. They don't count
        as calls.
        """
        async with self._background:
            await asyncio.sleep(self._rested_at - self._clock())
            while not await self._alone(_BACKGROUND_WAIT) and self.slots.waiting:
                pass
            begun = self._clock()
            try:
                yield
            finally:
                now = self._clock()
                rest = _BACKGROUND_REST * (now - begun) if self._called else 0.0
                self._rested_at = now + min(rest, _MAX_BACKGROUND_REST)
                self._called = self.under_way > 0

    async def _wait_for_others(self) -> None:
        """Wait until no call is under way; raise ShedError if that takes too long."""
        if self._waiting_low_priority >= MAX_LOW_PRIORITY_WAITING:
            raise ShedError(ShedReason.PRIORITY)
        self._waiting_low_priority += 1
        try:
            if not await self._alone(MAX_LOW_PRIORITY_WAIT):
                raise ShedError(ShedReason.PRIORITY)
        finally:
            self._waiting_low_priority -= 1

    async def _alone(self, seconds: float) -> bool:
        """Return true once no call is under way, or false after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while self.under_way:  # of several that were woken, the first is
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _check_number(self) -> None:
        if self.under_way >= self.max_calls:
            raise ShedError(ShedReason.LIMIT)
