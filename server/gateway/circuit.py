"""Keeps calls from something that fails, and tries it now and then until it is back."""

from __future__ import annotations

import time
from collections.abc import Callable

_FAILURES = 3
"""So many in a row open the circuit: one may be chance."""
PAUSE_SECONDS = 0.5
"""Between two tries while it is open."""


class Circuit:
    """Closed while calls succeed; open after some failures in a row.

    While it is open one call in PAUSE_SECONDS is let through. Its success closes the circuit.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Closed. `clock` gives seconds."""
        self._clock = clock
        self._failures = 0
        self._next_try = 0.0

    @property
    def open(self) -> bool:
        """Whether calls are kept from it."""
        return self._failures >= _FAILURES

    def admits(self) -> bool:
        """Whether a call may be made now; one that may is to be told of by the methods below."""
        if not self.open:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        self._next_try = now + PAUSE_SECONDS
        return True

    def succeeded(self) -> None:
        """A call has succeeded."""
        self._failures = 0

    def failed(self) -> None:
        """A call has failed."""
        self._failures += 1
        self._next_try = self._clock() + PAUSE_SECONDS
