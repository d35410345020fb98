"""Circuit breaker: stops calls to a dependency that fails, but for a probe now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

_FAILURES = 3
"""Consecutive failures that open the circuit: one may be chance."""
PAUSE_SECONDS = 0.5
"""Seconds between two probes while it is open."""


class Circuit:
    """Closed while calls succeed; open after consecutive failures.

    While it is open, one call in PAUSE_SECONDS is admitted. Its success closes the circuit.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._next_try = 0.0

    @property
    def open(self) -> bool:
        """Whether calls are stopped."""
        return self._failures >= _FAILURES

    def admits(self) -> bool:
        """Return whether a call may be made now; count its end with one of the methods below."""
        if not self.open:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        self._next_try = now + PAUSE_SECONDS
        return True

    def succeeded(self) -> bool:
        """Count a call that succeeded; return whether it closed the circuit."""
        was_open, self._failures = self.open, 0
        return was_open

    def failed(self) -> bool:
        """Count a call that failed; return whether it opened the circuit."""
        self._failures += 1
        self._next_try = self._clock() + PAUSE_SECONDS
        return self._failures == _FAILURES
