"""Who waits for an answer: work for a caller who has gone is neither begun nor continued."""

from __future__ import annotations

import math
import time


class CallerGoneError(Exception):
    """Nobody waits for the answer any more. Never a failure to answer without."""


class Caller:
    """One call's caller, who waits until the call's deadline."""

    def __init__(self, left: float | None = None) -> None:
        """Start the clock; `left` is the seconds until its deadline, None without one."""
        self._deadline = math.inf if left is None else time.monotonic() + left

    @property
    def left(self) -> float:
        """Seconds until its deadline, below 0 after it."""
        return self._deadline - time.monotonic()

    @property
    def gone(self) -> bool:
        """Whether its deadline has passed."""
        return self.left <= 0

    def check(self) -> None:
        """Raise CallerGoneError if it has gone."""
        if self.gone:
            raise CallerGoneError("the caller has gone")
