"""How much of a process's event loop each caller may use: a share, and a lane beyond it.

A piece of work is charged to its caller in seconds of the loop. A caller who used little lately has
it done at once. The pieces of all others wait in a lane and are done one after the other, the next
one of the caller who used the least. While others make light calls, such as for plain slates, the
lane rests after each piece, so that they hardly notice; else it goes on at once, and a caller alone
has the whole process.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client import Counter, Gauge

from vireo.server.rpc.caller import MAX_CALLERS
from vireo.server.rpc.errors import ShedError, ShedReason

OWN_SHARE = 0.1
"""Share of the time that a caller has without waiting."""
LANE_SHARE = 0.1
"""Share of the time that the lane has while others make light calls."""
_MEMORY_SECONDS = 1.0
"""Time over which a caller's use is averaged, with exponentially decreasing weights."""
_LIGHT_SECONDS = 1e-3
"""Maximum cost of work that counts as a light call if it is done at once."""
_ACTIVE_SECONDS = 1.0
"""Time after a light call for which its caller counts as making them: so long that one whose calls
are slow counts, too."""
MAX_WAITING, MAX_WAITING_OF_CALLER = 256, 64
"""Maximum pieces in the lane, each with a message in memory."""
REFUSAL_SECONDS = 0.5
"""Mean delay of the answer to a call that was refused: callers who repeat at once would otherwise
make refusals the flood."""

CHARGED = Counter(
    "vireo_budget_charged_seconds",
    "Work in seconds of the event loop that callers were charged with, at once or in the lane.",
    ["how"],
)
WAITING = Gauge("vireo_budget_waiting", "Pieces of work that wait in the lane.")


class _Latest:
    """When calls were made last."""

    def __init__(self) -> None:
        self._caller = ""
        self._at = self._other_at = -math.inf

    def note(self, caller: str, now: float) -> None:
        if caller != self._caller:
            self._caller, self._other_at = caller, self._at
        self._at = now

    def by_others(self, caller: str) -> float:
        """Return when any other caller made one."""
        return self._at if caller != self._caller else self._other_at


class Budget:
    """The callers of one process. Use it from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing charged; `clock` returns monotonic seconds."""
        self._clock = clock
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What each caller used lately in seconds, and as of when."""
        self._lane: list[tuple[str, asyncio.Future[None]]] = []
        """Callers of the pieces that wait, in order of arrival."""
        self._working = False
        self._rested_at = -math.inf
        self._next: asyncio.TimerHandle | None = None
        self._light, self._any = _Latest(), _Latest()

    @property
    def waiting(self) -> int:
        """Pieces that wait in the lane."""
        return len(self._lane)

    def used(self, caller: str) -> float:
        """Return what a caller used lately, in seconds."""
        seconds, at = self._used.get(caller, (0.0, 0.0))
        return seconds * math.exp((at - self._clock()) / _MEMORY_SECONDS)

    def light(self, caller: str) -> None:
        """Note a light call: one whose work isn't worth a charge, or next to none."""
        self._light.note(caller, self._clock())
        self._any.note(caller, self._clock())

    @asynccontextmanager
    async def turn(self, caller: str, cost: float) -> AsyncIterator[None]:
        """Wait until a piece of a caller's work may be done, in the block, and charge it.

        A caller without a name is one of our own processes, and never waits.

        Args:
            caller: see `caller_of`.
            cost: seconds of the loop that the work costs; if the block takes longer, its time.

        Raises:
            ShedError: too many pieces wait.
        """
        if not caller:
            self.light(caller)
            yield
            return
        others = self._lane or self._working or self._active(self._any, caller)
        # A piece that is larger than the share is beyond it, too, however long the caller rested.
        used = max(cost, self.used(caller))
        waits = bool(others) and used > OWN_SHARE * _MEMORY_SECONDS
        self._any.note(caller, self._clock())
        if waits:
            await self._wait(caller)
        elif cost <= _LIGHT_SECONDS:
            self.light(caller)
        begun = self._clock()
        self._charge(caller, cost)  # now: calls that come meanwhile find it
        try:
            yield
        finally:
            now = self._clock()
            self._charge(caller, max(0.0, now - begun - cost))
            cost = max(cost, now - begun)
            CHARGED.labels("lane" if waits else "at_once").inc(cost)
            if waits:
                self._rested_at = now + cost * (1 / LANE_SHARE - 1)
                self._working = False
                self._schedule()

    def _charge(self, caller: str, cost: float) -> None:
        self._used[caller] = self.used(caller) + cost, self._clock()
        self._used.move_to_end(caller)
        if len(self._used) > MAX_CALLERS:
            self._used.popitem(last=False)

    async def _wait(self, caller: str) -> None:
        own = sum(each == caller for each, _ in self._lane)
        if len(self._lane) >= MAX_WAITING or own >= MAX_WAITING_OF_CALLER:
            raise ShedError(ShedReason.BUDGET)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lane.append((caller, mine))
        self._schedule()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.cancelled():
                self._lane.remove((caller, mine))
            else:  # at the moment at which its turn came
                self._working = False
                self._schedule()
            raise

    def _schedule(self) -> None:
        """Let the next piece begin as soon as it may, but in another iteration of the loop."""
        if self._lane and not self._working and self._next is None:
            # Whether others make calls may change: look again from time to time.
            pause = min(self._pause(self._first()[0]), _ACTIVE_SECONDS / 4)
            self._next = asyncio.get_running_loop().call_later(pause, self._begin)

    def _begin(self) -> None:
        self._next = None
        if not self._lane:
            return
        caller, mine = first = self._first()
        if mine.cancelled() or self._pause(caller):  # what is cancelled leaves in a moment
            self._schedule()
            return
        self._lane.remove(first)
        self._working = True
        mine.set_result(None)

    def _first(self) -> tuple[str, asyncio.Future[None]]:
        """Return what waits for the longest of the caller who used the least lately."""
        return min(self._lane, key=lambda each: self.used(each[0]))

    def _pause(self, caller: str) -> float:
        """Return the seconds for which the lane still rests before a piece of a caller's work."""
        left = self._rested_at - self._clock()
        return max(0.0, left) if self._active(self._light, caller) else 0.0

    def _active(self, calls: _Latest, caller: str) -> bool:
        """Return whether others than a caller made calls a moment ago."""
        return self._clock() - calls.by_others(caller) < _ACTIVE_SECONDS
