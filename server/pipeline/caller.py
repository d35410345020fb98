"""Who waits for an answer: work for a caller who has gone is not begun, nor gone on with."""

from __future__ import annotations

import math
import time


class CallerGoneError(Exception):
    """Nobody waits for the answer any more. Never a failure to answer without."""


class Caller:
    """One call's caller. The event loop tells that it has gone; the thread that works asks."""

    def __init__(self, left: float | None = None) -> None:
        """Takes the seconds until its deadline; None where it sets none."""
        self._deadline = math.inf if left is None else time.monotonic() + left
        self._has_left = False

    def leave(self) -> None:
        """It has cancelled the call."""
        self._has_left = True

    @property
    def left(self) -> float:
        """Seconds until its deadline, below 0 after it."""
        return self._deadline - time.monotonic()

    @property
    def gone(self) -> bool:
        """Whether it has cancelled the call or its deadline has passed."""
        return self._has_left or self.left <= 0

    def check(self) -> None:
        """Raises CallerGoneError where it has gone."""
        if self.gone:
            raise CallerGoneError("the caller has gone")
