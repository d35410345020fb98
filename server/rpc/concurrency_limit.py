"""How many calls to work on at a time, by what more of them do to how long each takes.

An AIMD limit on latency, as in Netflix' concurrency-limits. Of each interval the quickest call
counts: if some wait for a pod that hangs, the others show that it isn't the number of calls that
makes them slow. And the limit shrinks only while it is reached: a machine that is busy with
something else makes calls slow too, and to refuse the few that there are would help nobody.
"""

from __future__ import annotations

import math

INTERVAL = 0.03
"""Seconds after which the limit is set anew, if enough calls have ended."""
MIN_SAMPLES = 3
"""Calls that must have ended in an interval."""
REST = 20
"""The limit while there is no overload: a burst, and no more than are soon worked off."""
MIN_LIMIT = 4
TOLERANCE = 2.0
"""A call that takes more than this multiple of the usual time is slow."""
_GROWTH, _MAX_DECREASE, _RETURN = 1.25, 0.5, 0.1
_QUICKER, _SLOWER, _SLOWER_AT_MIN = 0.2, 0.0001, 0.02
"""Weights of an interval in the usual time. It is that of calls which meet no others, so slower
ones hardly count; but so few calls as the minimum don't make each other slow."""


class ConcurrencyLimit:
    """Learns the limit from calls that end. Times are in seconds, on one clock."""

    def __init__(self, max_calls: int) -> None:
        """Start at rest; the limit never exceeds `max_calls`."""
        self._max = max_calls
        self.calls = float(min(REST, max_calls))
        """The limit."""
        self.usual = math.inf
        """Seconds of the quickest call of an interval, usually."""
        self._begin(0.0)

    def _begin(self, now: float) -> None:
        self._until = now + INTERVAL
        self._samples, self._peak, self._quickest = 0, 0, math.inf

    def admits(self, under_way: int) -> bool:
        """Return whether a call may join those under way."""
        self._peak = max(self._peak, under_way + 1)
        return under_way < int(self.calls)

    def ended(self, now: float, took: float) -> None:
        """Learn that a call ended that took so long."""
        self._samples += 1
        self._quickest = min(self._quickest, took)
        if now >= self._until and self._samples >= MIN_SAMPLES:
            self._adapt()
            self._begin(now)

    def _adapt(self) -> None:
        quickest = self._quickest
        slow = quickest > TOLERANCE * self.usual
        if slow and self._peak > self.calls:
            decrease = max(_MAX_DECREASE, TOLERANCE * self.usual / quickest)
            self.calls = max(min(MIN_LIMIT, self._max), decrease * self.calls)
        elif not slow and self._peak > self.calls / 2:
            self.calls = min(self._max, _GROWTH * self.calls)
        else:
            self.calls += _RETURN * (min(REST, self._max) - self.calls)
        if quickest < self.usual:
            weight = _QUICKER if math.isfinite(self.usual) else 1.0
        else:
            weight = _SLOWER_AT_MIN if self.calls <= MIN_LIMIT else _SLOWER
        self.usual = quickest if weight == 1.0 else self.usual + weight * (quickest - self.usual)
