"""CoDel for a server's queue: tells a queue that stays from a burst, by how long calls wait.

A queue is bad not when it is long but when it doesn't shrink: when every wait has been above a
target for a whole interval (RFC 8289). While it is good a call may wait for an interval, so that
bursts are taken; while it is bad, for two targets only, since those who wait longer would be
answered late however long the queue was kept (B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015;
the same rule is in Facebook's folly).
"""

from __future__ import annotations

TARGET = 0.005
INTERVAL = 0.1
"""Both are CoDel's own, in seconds."""


class Codel:
    """One queue, of whose calls it is told how long each has waited.

    Other than a router's, it takes a queue for bad until no wait has been above the target for an
    interval: one quick call among slow ones would open the queue to a burst's worth of calls.
    """

    def __init__(self, target: float = TARGET, interval: float = INTERVAL) -> None:
        """Takes both in seconds."""
        self.target = target
        """What calls may wait for ever; may be changed, say with the time that work takes."""
        self._interval = interval
        self.standing = False
        """Whether there is a queue that stays."""
        self.latest = 0.0
        """Seconds that the call told of last has waited."""
        self._above_since: float | None = None
        self._below_since: float | None = None

    @property
    def longest_wait(self) -> float:
        """Seconds beyond which a call shouldn't wait now."""
        slough = 2 * self.target
        return slough if self.standing else max(self._interval, slough)

    def observe(self, now: float, waited: float) -> None:
        """Takes up one call's wait; both in seconds, `now` on a clock that never goes back."""
        self.latest = waited
        if waited > self.target:
            self._below_since = None
            if self._above_since is None:
                self._above_since = now
            elif now - self._above_since >= self._interval:
                self.standing = True
        else:
            self._above_since = None
            if self._below_since is None:
                self._below_since = now
            elif now - self._below_since >= self._interval:
                self.standing = False
