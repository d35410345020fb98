"""Deadline of a request, and the budget of each stage."""

from __future__ import annotations

import time
from dataclasses import dataclass

_ANSWER_SECONDS = 0.01
"""Reserved for building and sending the response after the last stage."""


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock."""

    at: float

    @staticmethod
    def after(seconds: float) -> Deadline:
        """Return the deadline in `seconds` from now."""
        return Deadline(time.monotonic() + seconds)

    def left(self) -> float:
        """Return the seconds until then; 0 once it has passed."""
        return max(0.0, self.at - time.monotonic())

    def budget(self, limit: float, share: float = 1.0) -> float:
        """Return the seconds that a stage may take.

        Args:
            limit: the stage's own limit in seconds.
            share: share of the time left that it may use, so that later stages get theirs.
        """
        return min(limit, share * max(0.0, self.left() - _ANSWER_SECONDS))
