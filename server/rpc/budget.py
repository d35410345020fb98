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
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from prometheus_client import Counter, Gauge

from server.rpc.errors import ShedError, ShedReason, unavailable

OWN_SHARE = 0.05
"""Share of the time that a caller has without waiting."""
LANE_SHARE = 0.1
"""Share of the time that the lane has while others make light calls."""
_MEMORY_SECONDS = 1.0
"""Time over which a caller's use is averaged, with exponentially decreasing weights."""
_ACTIVE_SECONDS = 0.25
"""Time after a light call for which its caller counts as making them."""
MAX_WAITING, MAX_WAITING_OF_CALLER = 256, 64
"""Maximum pieces in the lane, each with a message in memory."""
REFUSAL_SECONDS = 0.5
"""Delay of a refusal: callers who repeat at once would otherwise make refusals the flood."""
_RETRY_AFTER = timedelta(seconds=1)
MAX_CALLERS = 10_000
"""Maximum callers who are told apart, some 300 bytes each; the least recent are forgotten."""

CHARGED = Counter(
    "vireo_budget_charged_seconds",
    "Work in seconds of the event loop that callers were charged with, at once or in the lane.",
    ["how"],
)
_AT_ONCE, _IN_LANE = CHARGED.labels("at_once"), CHARGED.labels("lane")
WAITING = Gauge("vireo_budget_waiting", "Pieces of work that wait in the lane.")


class _Use:
    """What a caller used lately, in seconds."""

    __slots__ = ("at", "seconds")

    def __init__(self, now: float) -> None:
        self.seconds, self.at = 0.0, now


class Budget:
    """The callers of one process. Use it from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing charged; `clock` returns monotonic seconds."""
        self._clock = clock
        self._uses: OrderedDict[str, _Use] = OrderedDict()
        self._lane: dict[str, deque[asyncio.Future[None]]] = {}
        """Pieces that wait, by caller, each in order of arrival."""
        self.waiting = 0
        """Pieces in the lane."""
        self._working = self._closed = False
        self._rested_at = -math.inf
        self._next: asyncio.TimerHandle | None = None
        self._latest = ""
        """Caller of the latest light call."""
        self._latest_at = self._other_at = -math.inf
        """When that was, and when the latest one of any other caller was."""

    def light(self, caller: str) -> None:
        """Note a call whose work isn't worth a charge."""
        if caller != self._latest:
            self._latest, self._other_at = caller, self._latest_at
        self._latest_at = self._clock()

    @asynccontextmanager
    async def turn(self, caller: str, cost: float) -> AsyncIterator[None]:
        """Wait until a piece of a caller's work may be done, in the block, and charge it.

        A caller without a name is one of our own processes, and never waits.

        Args:
            caller: see `caller_of`.
            cost: seconds of the loop that the work costs; if the block takes longer, its time.

        Raises:
            RpcError: RESOURCE_EXHAUSTED if too many pieces wait; UNAVAILABLE once this is closed.
        """
        if not caller:
            self.light(caller)
            yield
            return
        waits = caller in self._lane or self._use(caller).seconds > OWN_SHARE * _MEMORY_SECONDS
        if waits:
            await self._wait(caller)
        begun = self._clock()
        try:
            yield
        finally:
            now = self._clock()
            charged = max(cost, now - begun)
            self._use(caller).seconds += charged
            (_IN_LANE if waits else _AT_ONCE).inc(charged)
            if waits:
                self._rested_at = now + charged * (1 / LANE_SHARE - 1)
                self._end_turn()

    def close(self) -> None:
        """Refuse what waits, and what would."""
        self._closed = True
        for waiting in self._lane.values():
            for each in waiting:
                if not each.done():
                    each.set_exception(_closed())

    async def _wait(self, caller: str) -> None:
        own = self._lane.get(caller, ())
        if self._closed:
            raise _closed()
        if self.waiting >= MAX_WAITING or len(own) >= MAX_WAITING_OF_CALLER:
            await asyncio.sleep(REFUSAL_SECONDS)
            raise ShedError(ShedReason.BUDGET, _RETRY_AFTER)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lane.setdefault(caller, deque()).append(mine)
        self._count(1)
        self._schedule()
        try:
            await mine
        except BaseException:
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self._end_turn()  # it was cancelled at the moment at which its turn came
            else:
                self._remove(caller, mine)
            raise

    def _end_turn(self) -> None:
        self._working = False
        self._schedule()

    def _schedule(self) -> None:
        """Let the next piece begin as soon as it may, but in another iteration of the loop."""
        if self._working or self._next is not None or not self._lane:
            return
        # Whether others make calls may change: look again from time to time.
        pause = min(self._pause(self._first()), _ACTIVE_SECONDS)
        self._next = asyncio.get_running_loop().call_later(pause, self._begin)

    def _begin(self) -> None:
        self._next = None
        if not self._lane:
            return
        caller = self._first()
        if self._pause(caller):
            self._schedule()
            return
        mine = self._lane[caller][0]
        self._remove(caller, mine)
        self._working = True
        mine.set_result(None)

    def _first(self) -> str:
        """Return the waiting caller who used the least lately."""
        return min(self._lane, key=lambda caller: self._use(caller).seconds)

    def _pause(self, caller: str) -> float:
        """Return the seconds for which the lane still rests before a piece of a caller's work."""
        now = self._clock()
        light_at = self._latest_at if caller != self._latest else self._other_at
        return max(0.0, self._rested_at - now) if now - light_at < _ACTIVE_SECONDS else 0.0

    def _remove(self, caller: str, mine: asyncio.Future[None]) -> None:
        self._lane[caller].remove(mine)
        if not self._lane[caller]:
            del self._lane[caller]
        self._count(-1)

    def _count(self, change: int) -> None:
        self.waiting += change
        WAITING.inc(change)

    def _use(self, caller: str) -> _Use:
        """Return what a caller used lately, as of now."""
        now, use = self._clock(), self._uses.get(caller)
        if use is None:
            use = self._uses[caller] = _Use(now)
            if len(self._uses) > MAX_CALLERS:
                self._uses.popitem(last=False)
        else:
            self._uses.move_to_end(caller)
            use.seconds *= math.exp((use.at - now) / _MEMORY_SECONDS)
            use.at = now
        return use


def _closed() -> Exception:
    return unavailable("this server shuts down; retry on another one", timedelta(0))
