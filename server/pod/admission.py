"""Which calls a service admits. The others are shed before any of their message is read.

One rule, by how long a call waits before it is worked on: it is shed if it would wait past its own
deadline, or so long that all calls after it would be late too. Gateways, whose calls wait for
other services, also bound how many they work on (`slots.py`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from vireo.server.pod.run_queue import RunQueue
from vireo.server.pod.slots import Slot, Slots
from vireo.server.rpc.caller import caller_in
from vireo.server.rpc.errors import ShedError, ShedReason
from vireo.server.rpc.reading import Metadata

TIMEOUT_HEADER = "x-vireo-timeout"
"""Metadata key of a copy of the call's grpc-timeout, which gateways make, and Envoy: see
`envoy/shared.yaml`."""

QUEUE_TARGET = 0.01
"""Queueing delay in seconds that is always allowed."""
INTERVAL = 0.1
"""Seconds for which every wait must exceed the target before the queue counts as standing, and must
stay below it before it no longer does (CoDel, RFC 8289, section 4.3)."""
MIN_CALLS_AHEAD = 12
"""With fewer calls ahead, the queue isn't what delays a call: something else has the processor, and
shedding a few calls wouldn't help."""

LOW_PRIORITY = ("x-vireo-priority", "low")
"""Metadata of inner calls that nobody waits for: pods answer them while they have no others."""
MAX_LOW_PRIORITY_WAIT = 0.05
"""Maximum seconds for which such a call waits for that before it is shed. Envoy would count one
that waited for longer than its try as a failure of the pod."""
MAX_LOW_PRIORITY_WAITING = 20
"""Maximum number of such calls that wait."""
_BACKGROUND_WAIT = 1.0
"""Seconds after which a piece of work in the background begins although calls are under way, so
that it ends some day: one in a second moves no 99th percentile. Not while calls wait or are shed.
"""
_BACKGROUND_REST, _MAX_BACKGROUND_REST = 20, 1.0
"""Rest after a piece of work in the background, as a multiple of the time that it took and of the
share of pieces that met calls; and its maximum in seconds. Without calls there is none. A piece
that has begun slows calls that come in meanwhile: it must be few of them."""
_BACKGROUND_WEIGHT = 0.05
"""Weight of the latest piece in that share."""

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MAX_DIGITS = 8


class Admission:
    """Admission control of one service. Use it from one event loop.

    A call's wait has two parts. A gRPC server accepts calls one after the other: that wait shows
    in what is left of the call's timeout. And the call will wait for its run: the length of the
    queue times the mean time of a run (Little's law).

    Unless the queue is standing, a call may wait for a whole interval, so that bursts are
    admitted; else for two targets only (B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015).
    """

    def __init__(
        self,
        max_calls: int,
        *,
        queue: RunQueue | None = None,
        slots: Slots | None = None,
        target: float = QUEUE_TARGET,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with no calls in flight.

        Args:
            max_calls: maximum concurrent calls, for the memory that they take.
            queue: the queue in which calls wait for their run; None if they can be answered
                without one.
            slots: bound how many calls are worked on concurrently; None if the queue does.
            target: queueing delay in seconds that is always allowed; infinite to shed by
                `max_calls` alone.
            clock: monotonic clock in seconds.
        """
        self.max_calls = max_calls
        self.target = target
        self.under_way = 0
        """Calls that are being answered."""
        self.standing = False
        """Whether the queue persists instead of coming and going."""
        self.latest_wait = 0.0
        """Expected wait of the latest call in seconds."""
        self.slots = slots
        self._queue = queue
        self._clock = clock
        self._taken_up: deque[float] = deque(maxlen=MIN_CALLS_AHEAD)
        self._observed = self._since = -math.inf
        self._above: bool | None = None
        self._idle = asyncio.Event()
        """Set while no call is being answered."""
        self._idle.set()
        self._waiting_low_priority = 0
        self._background = asyncio.Lock()
        self._rested_at = -math.inf
        """When the next piece of work in the background may begin."""
        self._met_calls = 0.0
        """Recent share of these pieces before which calls were under way."""

    def check(self, metadata: Metadata, left: float | None) -> None:
        """Return if a call is admitted, before it is read.

        Args:
            metadata: the call's invocation metadata.
            left: seconds until its deadline; None without one.

        Raises:
            ShedError: it is shed.
        """
        now = self._clock()
        waited = waited_seconds(metadata, left)
        expected = 0.0 if self._queue is None else self._queue.expected_wait
        self._observe(now, waited + expected)
        max_wait = 2 * self.target if self.standing else max(INTERVAL, 2 * self.target)
        late = waited + expected > max_wait and self._ahead(now - waited) >= MIN_CALLS_AHEAD
        self._taken_up.append(now)
        self._check_number()
        if left is not None and expected > left:
            raise ShedError(ShedReason.DEADLINE)
        if late:
            raise ShedError(ShedReason.QUEUE)
        if self.slots is not None:
            self.slots.check(caller_in(metadata))

    async def enter(self, metadata: Metadata = ()) -> Slot | None:
        """Count a call as in flight; return its slot if it needs one, for `leave`.

        Raises:
            ShedError: too many calls are in flight.
        """
        if self._queue is not None and LOW_PRIORITY in metadata:
            await self._wait_for_others()
        self._check_number()
        self.under_way += 1
        self._idle.clear()
        if self.slots is None:
            return None
        try:
            return await self.slots.take(caller_in(metadata))
        except BaseException:  # also a cancellation, while it waits
            self._ended()
            raise

    def leave(self, slot: Slot | None) -> None:
        """Count a call as ended; `slot` is what `enter` returned."""
        self._ended()
        if self.slots is not None and slot is not None:
            self.slots.give_back(slot)

    @asynccontextmanager
    async def background(self) -> AsyncIterator[None]:
        """Wait until no call is under way; then one piece of work in the background may be done.

        Pieces have their turns one after the other, with a rest between them while there are calls
        now and then, and don't count as calls.
        """
        async with self._background:
            await asyncio.sleep(self._rested_at - self._clock())
            self._met_calls += _BACKGROUND_WEIGHT * (bool(self.under_way) - self._met_calls)
            while self.under_way:
                try:
                    async with asyncio.timeout(_BACKGROUND_WAIT):
                        await self._idle.wait()
                except TimeoutError:
                    if not self._crowded:
                        break
            begun = self._clock()
            try:
                yield
            finally:
                now = self._clock()
                rest = _BACKGROUND_REST * self._met_calls * (now - begun)
                self._rested_at = now + min(rest, _MAX_BACKGROUND_REST)

    async def _wait_for_others(self) -> None:
        """Wait until no call is under way; raise ShedError if that takes too long."""
        if self._waiting_low_priority >= MAX_LOW_PRIORITY_WAITING:
            raise ShedError(ShedReason.PRIORITY)
        self._waiting_low_priority += 1
        try:
            async with asyncio.timeout(MAX_LOW_PRIORITY_WAIT):
                while self.under_way:  # of several that were woken, the first is
                    await self._idle.wait()
        except TimeoutError as error:
            raise ShedError(ShedReason.PRIORITY) from error
        finally:
            self._waiting_low_priority -= 1

    @property
    def _crowded(self) -> bool:
        """Whether calls wait for a slot, or are shed."""
        return self.standing or (self.slots is not None and self.slots.waiting > 0)

    def _ended(self) -> None:
        self.under_way -= 1
        if not self.under_way:
            self._idle.set()

    def _ahead(self, arrived: float) -> int:
        """Return how many calls are ahead of one; of those that were read, a few are enough."""
        queued = 0 if self._queue is None else self._queue.queued
        return queued + sum(arrived < each for each in self._taken_up)

    def _check_number(self) -> None:
        if self.under_way >= self.max_calls:
            raise ShedError(ShedReason.LIMIT)

    def _observe(self, now: float, wait: float) -> None:
        if now - self._observed > INTERVAL:  # no calls came: there is no queue
            self._above, self.standing = None, False
        self._observed = now
        self.latest_wait = wait
        above = wait > self.target
        if above is not self._above:
            self._above, self._since = above, now
        if now - self._since >= INTERVAL:
            self.standing = above


def waited_seconds(metadata: Metadata, left: float | None) -> float:
    """Return how long ago a call arrived: its timeout minus what is left of it.

    0 if the metadata don't contain a timeout, or the call has no deadline.
    """
    if left is None:
        return 0.0
    for key, value in metadata:
        if key == TIMEOUT_HEADER and (timeout := timeout_seconds(value)) is not None:
            return max(0.0, timeout - left)
    return 0.0


def timeout_seconds(value: str) -> float | None:
    """Return the seconds of a grpc-timeout, for example "500m"; None if it isn't one."""
    digits, unit = value[:-1], value[-1:]
    if unit in _UNITS and digits.isdecimal() and len(digits) <= _MAX_DIGITS:
        return int(digits) * _UNITS[unit]
    return None
