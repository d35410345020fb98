"""Adaptive concurrency limit, by how concurrency affects latency.

The gradient of Netflix' concurrency-limits and of Envoy's adaptive concurrency filter: while
latency exceeds its baseline, the limit is multiplied by the ratio of the two. The differences:

- it shrinks only in a flood, while far more calls are refused than end. A small excess is worked
  off, if more slowly; and if something else makes calls slow, such as another process that takes
  the cores, refusing some wouldn't help;
- the minimum latency of an interval counts: if some calls wait for a pod that hangs, the others
  show that concurrency isn't what makes them slow.
"""

from __future__ import annotations

import math

INTERVAL = 0.03
"""Seconds after which the limit is updated, if enough calls have ended."""
REST = 4
"""Limit while all is well: if more calls come it grows step by step, so that a flood doesn't find
it high."""
MIN_CALLS = 1
"""Minimum limit, however slow calls are."""
_MIN_ENDED = 3
"""Minimum calls that must have ended in an interval."""
_FLOOD_BEGINS, _FLOOD_ENDS = 0.3, 1.5
"""Recent ratio of refused to ended calls at which a flood begins and ends. In a flood a lower limit
lets fewer calls end: it is over once the limit at rest would admit what is still refused."""
_LATELY = 0.15
"""Weight of an interval in that ratio."""
_TOLERANCE = 2.0
"""Ratio of latency to baseline that is tolerated in a flood."""
_PEAKS, _SLOW_REST = 2, 16
"""Multiple of the recent peak of calls that is admitted without steps; and its maximum while calls
are slow, without a flood."""
_GROWTH, _NEEDED = 1.1, 1.5
"""Growth of the limit in an interval: on the way back to rest, and if more quick calls come."""
_RETURN = 0.98
"""Factor in an interval for a limit that is no longer needed."""
_QUICKER, _SLOWER = 0.2, 0.0001
"""Weights of an interval in the baseline, which is the latency of calls without contention: higher
latency counts only after minutes."""
_HANG_SECONDS, _HANG_TIMES = 0.1, 10
"""A call hangs if it takes longer than this, and than this multiple of the baseline, while others
are quick."""
_LONG = 4
"""Minimum latency above this multiple of the baseline means queueing, or a slow machine."""
_STANDSTILL_SECONDS = 0.25
"""If no call has ended for this long, concurrency isn't what they wait for."""
_SETTLED = 60
"""Intervals at the minimum limit after which the latency then is the new baseline; and in which all
calls hung, after which they count as slow instead."""


class GradientLimit:
    """The limit of concurrent calls, learnt from calls that end or are refused.

    Times are in seconds, and `now` is always on one monotonic clock.
    """

    def __init__(self, max_calls: int) -> None:
        """Start at rest; `max_calls` is the maximum of the limit."""
        self._max_calls = max_calls
        self.calls = float(min(REST, max_calls))
        """The limit."""
        self.usual: float | None = None
        """Baseline of an interval's minimum latency; None before the first."""
        self.flooded = False
        """Whether far more calls come than can be worked on."""
        self._ratio = 0.0
        self._slow = False
        """Whether even the quickest calls were slow recently."""
        self._at_least = self._all_hung = 0
        self._last_end: float | None = None
        self._begin(0.0)

    def _begin(self, now: float) -> None:
        """Begin an interval."""
        self._until = now + INTERVAL
        self._refused = self._ended = self._peak = 0
        self._quickest = math.inf
        self._reached = False

    @property
    def hanging(self) -> float:
        """Seconds after which a call hangs: concurrency isn't what it waits for."""
        if self.usual is None or self.flooded or self._slow:
            return math.inf
        return max(_HANG_SECONDS, _HANG_TIMES * self.usual)

    def admits(self, now: float, under_way: int, hanging: int = 0) -> bool:
        """Return whether another call may join those in flight, of which some hang."""
        counted = under_way - hanging
        if counted >= int(self.calls):
            self._reached = True
            if not self._stands_still(now):
                return False
            self.calls = min(self._max_calls, max(_NEEDED * self.calls, counted + 1.0))
        self._peak = max(self._peak, counted + 1)
        return under_way < self._max_calls

    def _stands_still(self, now: float) -> bool:
        return self._last_end is not None and now - self._last_end > _STANDSTILL_SECONDS

    def refused(self) -> None:
        """Count a refused call."""
        self._refused += 1

    def ended(self, now: float, took: float | None) -> None:
        """Count an admitted call that has ended.

        Args:
            now: when it ended.
            took: its latency; None if it isn't a sample.
        """
        self._last_end = now
        self._ended += 1
        if took is not None:
            self._quickest = min(self._quickest, took)
        if now >= self._until and self._ended >= _MIN_ENDED:
            self._set(self._quickest)
            self._begin(now)

    def _set(self, took: float) -> None:
        """Update the limit after an interval; `took` is its minimum latency, inf if unknown."""
        flooded = self._floods()
        # If all calls hang for long, a single pod isn't the cause.
        self._all_hung = self._all_hung + 1 if self.hanging <= took < math.inf else 0
        if math.isinf(took) or 0 < self._all_hung < _SETTLED:
            self.calls = self.calls if flooded else self._at_rest(quick=True)
            return
        usual = took if self.usual is None else self.usual
        gradient = _TOLERANCE * usual / took
        self._slow = took > _LONG * usual
        if not flooded:
            usual += (_QUICKER if took < usual else _SLOWER) * (took - usual)
            self.calls = self._at_rest(quick=gradient >= 1)
        elif gradient >= 1:
            self.calls = min(self._max_calls, _GROWTH * self.calls)
        else:
            self._at_least = self._at_least + 1 if self.calls <= MIN_CALLS else 0
            self.calls = max(MIN_CALLS, gradient * min(self.calls, max(self._peak, MIN_CALLS)))
            if self._at_least >= _SETTLED:
                # So few calls don't slow each other: this is the latency without contention now.
                usual, self._at_least = took / _TOLERANCE, 0
        self.usual = usual

    def _floods(self) -> bool:
        """Return whether there is a flood, after another interval."""
        self._ratio += _LATELY * (self._refused / self._ended - self._ratio)
        if self.flooded and self._ratio < _FLOOD_ENDS:
            self.flooded, self._ratio = False, 0.0
            # At once: a limit that grew would refuse so many meanwhile that the flood went on.
            self.calls = max(self.calls, float(min(REST, self._max_calls)))
        elif not self.flooded and self._ratio > _FLOOD_BEGINS:
            self.flooded, self._ratio = True, 2 * _FLOOD_ENDS
        return self.flooded

    def _at_rest(self, *, quick: bool) -> float:
        """Return the limit after an interval without a flood, in which calls were quick or slow."""
        if quick and self._reached:
            return min(self._max_calls, _NEEDED * self.calls)
        rest = max(REST, _PEAKS * self._peak)
        rest = min(self._max_calls, rest if quick else min(rest, _SLOW_REST))
        if self.calls < rest:
            return min(rest, _GROWTH * self.calls)
        return max(rest, _RETURN * self.calls)
