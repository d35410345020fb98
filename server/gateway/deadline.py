"""When the answer must be out, and how much of what is left each stage may take."""

from __future__ import annotations

import time
from dataclasses import dataclass

_ANSWER_SECONDS = 0.01
"""Kept back to build and send the answer after the last stage."""


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock."""

    at: float

    @staticmethod
    def after(seconds: float) -> Deadline:
        """The moment in `seconds` from now."""
        return Deadline(time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds until then; 0 once it has passed."""
        return max(0.0, self.at - time.monotonic())

    def budget(self, limit: float, share: float = 1.0) -> float:
        """Seconds that a stage may take.

        Args:
            limit: the stage's own limit, in seconds.
            share: how much of what is left it may use, so that later stages get their part.
        """
        return min(limit, share * max(0.0, self.left() - _ANSWER_SECONDS))
