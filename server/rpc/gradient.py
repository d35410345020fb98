"""How many calls to work on at a time, by what more of them do to how long each takes.

The gradient of Netflix' concurrency-limits and of Envoy's adaptive concurrency filter: while calls
take longer than usual, the limit is multiplied by the ratio of the two. Other than there

- it shrinks only in a flood, while far more calls are refused than end. A load that is hardly too
  much is worked off, if more slowly; and where something else makes calls slow, another process
  that takes the cores say, refusing some would help nobody;
- of an interval the quickest call counts: where some wait for a pod that hangs, the others tell
  that it isn't their number that makes them slow.
"""

from __future__ import annotations

import math

INTERVAL = 0.03
"""Seconds after which the limit is set anew, if enough calls have ended."""
REST = 4
"""Calls that may be worked on while all is well: where more are needed it grows step by step, so
that a flood doesn't find the gates open."""
LEAST = 1
"""Calls that are worked on at a time however slow they are."""
_FEWEST = 3
"""Calls that must have ended in an interval."""
_FLOOD_BEGINS, _FLOOD_ENDS = 0.3, 1.5
"""Calls refused for each one that ends, lately. In a flood a lower limit lets fewer end: it is over
when what is still refused would find room at rest."""
_LATELY = 0.15
"""Weight of an interval in that."""
_TOLERANCE = 2.0
"""Times the usual time that calls may take in a flood."""
_PEAKS, _SLOW_REST = 2, 16
"""Times as many calls as there were lately are let in without steps; at most so many where calls
are slow, without a flood."""
_GROWTH, _NEEDED = 1.1, 1.5
"""Of the limit in an interval: on the way back to rest, and where more calls come and are quick."""
_RETURN = 0.98
"""Of a limit that is no longer needed, in an interval."""
_QUICKER, _SLOWER = 0.2, 0.0001
"""Weights of an interval in the usual time, which is that of calls which meet no others: what is
slower counts only after minutes."""
_HANG_SECONDS, _HANG_TIMES = 0.1, 10
"""A call hangs that takes longer than this, and than so many times the usual, while others don't
take long."""
_LONG = 4
"""Times the usual that even the quickest call takes where a queue, or the machine, makes it."""
_STANDSTILL_SECONDS = 0.25
"""Where no call has ended for so long, their number isn't what they wait for."""
_SETTLED = 60
"""Intervals at the least limit after which what calls take then counts as usual; and in which all
calls hung, after which they are slow instead."""


class GradientLimit:
    """The limit of calls under way, learnt from those that end or are refused.

    Times are in seconds, and `now` is always on one clock that never goes back.
    """

    def __init__(self, most: int) -> None:
        """Takes the most calls that there may ever be."""
        self._most = most
        self.calls = float(min(REST, most))
        """The limit."""
        self.usual: float | None = None
        """What the quickest call of an interval takes, usually; None before the first."""
        self.flooded = False
        """Whether far more calls come than can be worked on."""
        self._ratio = 0.0
        self._slow = False
        """Whether even the quickest calls were slow of late."""
        self._at_least = self._all_hung = 0
        self._last_end: float | None = None
        self._begin(0.0)

    def _begin(self, now: float) -> None:
        """Begins an interval."""
        self._until = now + INTERVAL
        self._refused = self._ended = self._peak = 0
        self._quickest = math.inf
        self._reached = False

    @property
    def hanging(self) -> float:
        """Seconds after which a call hangs: it isn't the number of calls that it waits for."""
        if self.usual is None or self.flooded or self._slow:
            return math.inf
        return max(_HANG_SECONDS, _HANG_TIMES * self.usual)

    def admits(self, now: float, under_way: int, hanging: int = 0) -> bool:
        """Whether a call may join so many, of which some hang."""
        counted = under_way - hanging
        if counted >= int(self.calls):
            self._reached = True
            if not self._stands_still(now):
                return False
            self.calls = min(self._most, max(_NEEDED * self.calls, counted + 1.0))
        self._peak = max(self._peak, counted + 1)
        return under_way < self._most

    def _stands_still(self, now: float) -> bool:
        return self._last_end is not None and now - self._last_end > _STANDSTILL_SECONDS

    def refused(self) -> None:
        """Takes up that a call has been refused."""
        self._refused += 1

    def ended(self, now: float, took: float | None) -> None:
        """Takes up that a call which was admitted has ended.

        Args:
            now: when.
            took: how long it took; None where that tells nothing.
        """
        self._last_end = now
        self._ended += 1
        if took is not None:
            self._quickest = min(self._quickest, took)
        if now >= self._until and self._ended >= _FEWEST:
            self._set(self._quickest)
            self._begin(now)

    def _set(self, took: float) -> None:
        """Sets the limit after an interval whose quickest call took so long, if known."""
        flooded = self._floods()
        # Where all hang for long it is no pod's doing.
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
            self.calls = min(self._most, _GROWTH * self.calls)
        else:
            self._at_least = self._at_least + 1 if self.calls <= LEAST else 0
            self.calls = max(LEAST, gradient * min(self.calls, max(self._peak, LEAST)))
            if self._at_least >= _SETTLED:
                # So few at a time don't make each other slow: this is what calls take now.
                usual, self._at_least = took / _TOLERANCE, 0
        self.usual = usual

    def _floods(self) -> bool:
        """Whether there is a flood, after another interval."""
        self._ratio += _LATELY * (self._refused / self._ended - self._ratio)
        if self.flooded and self._ratio < _FLOOD_ENDS:
            self.flooded, self._ratio = False, 0.0
            # At once: a limit that grew would refuse so many on its way that the flood went on.
            self.calls = max(self.calls, float(min(REST, self._most)))
        elif not self.flooded and self._ratio > _FLOOD_BEGINS:
            self.flooded, self._ratio = True, 2 * _FLOOD_ENDS
        return self.flooded

    def _at_rest(self, *, quick: bool) -> float:
        """The limit after an interval without a flood, in which calls were quick or slow."""
        if quick and self._reached:
            return min(self._most, _NEEDED * self.calls)
        rest = max(REST, _PEAKS * self._peak)
        rest = min(self._most, rest if quick else min(rest, _SLOW_REST))
        if self.calls < rest:
            return min(rest, _GROWTH * self.calls)
        return max(rest, _RETURN * self.calls)
