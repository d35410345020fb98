"""How much of a process's event loop each caller may use: a share, and a lane beyond it.

A piece of work is charged to its caller in seconds of the loop. A caller who used little lately has
it done at once. The pieces of all others wait in a lane and are done one after the other, each
caller's in order of arrival. While others make light calls, such as for plain slates, the lane
rests after each piece, so that they hardly notice; else it goes on at once, and a caller alone has
the whole process.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

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
"""Time after a call for which its caller counts as making them: so long that one whose calls are
slow counts, too."""
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


@dataclass
class _Account:
    """What one caller used, and its pieces in the lane."""

    used: float = 0.0
    """Seconds used lately, as of `at`."""
    at: float = 0.0
    waiting: int = 0
    first: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the first of those that wait."""


class Budget:
    """The callers of one process. Use it from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing charged; `clock` returns monotonic seconds."""
        self._clock = clock
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._light, self._any = _Latest(), _Latest()
        self._rested_at = -math.inf
        """When the lane's next piece may begin while others make light calls."""
        self.waiting = 0
        """Pieces that wait in the lane."""

    def used(self, caller: str) -> float:
        """Return what a caller used lately, in seconds."""
        account = self._accounts.get(caller)
        if account is None:
            return 0.0
        return account.used * math.exp((account.at - self._clock()) / _MEMORY_SECONDS)

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
        waits = self._active(self._any, caller) and self._is_beyond_share(caller, cost)
        self._any.note(caller, self._clock())
        if waits:
            await self._wait(caller, cost)
        elif cost <= _LIGHT_SECONDS:
            self.light(caller)
        begun = self._clock()
        self._charge(caller, cost, rests=waits)  # now: calls that come meanwhile find it
        try:
            yield
        finally:
            further = max(0.0, self._clock() - begun - cost)
            self._charge(caller, further, rests=waits)
            CHARGED.labels("lane" if waits else "at_once").inc(cost + further)

    def _account(self, caller: str) -> _Account:
        account = self._accounts.setdefault(caller, _Account())
        self._accounts.move_to_end(caller)
        if len(self._accounts) > MAX_CALLERS:
            self._accounts.popitem(last=False)
        return account

    def _charge(self, caller: str, cost: float, *, rests: bool) -> None:
        account, now = self._account(caller), self._clock()
        account.used, account.at = self.used(caller) + cost, now
        if rests:
            self._rested_at = max(self._rested_at, now) + cost / LANE_SHARE

    async def _wait(self, caller: str, cost: float) -> None:
        """Wait until the lane has rested, or the piece is within its caller's share."""
        account = self._account(caller)
        if self.waiting >= MAX_WAITING or account.waiting >= MAX_WAITING_OF_CALLER:
            raise ShedError(ShedReason.BUDGET)
        self.waiting += 1
        account.waiting += 1
        try:
            async with account.first:
                await asyncio.sleep(0)  # callers take turns
                while (rest := self._rested_at - self._clock()) > 0:
                    if not (
                        self._active(self._light, caller) and self._is_beyond_share(caller, cost)
                    ):
                        break
                    # Whether others make calls may change: look again from time to time.
                    await asyncio.sleep(min(rest, _ACTIVE_SECONDS / 4))
        finally:
            self.waiting -= 1
            account.waiting -= 1

    def _is_beyond_share(self, caller: str, cost: float) -> bool:
        """Return whether a piece is, as one that is larger than the share always is."""
        return max(cost, self.used(caller)) > OWN_SHARE * _MEMORY_SECONDS

    def _active(self, calls: _Latest, caller: str) -> bool:
        """Return whether others than a caller made calls a moment ago."""
        return self._clock() - calls.by_others(caller) < _ACTIVE_SECONDS
