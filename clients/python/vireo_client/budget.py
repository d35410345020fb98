"""Remaining time and retries of one call."""

from __future__ import annotations

import random
import time

from vireo_client.errors import Overloaded, VireoError


class CallBudget:
    """A deadline, and a number of retries after an overload."""

    def __init__(self, seconds: float, repeats: int) -> None:
        """Start the time.

        Args:
            seconds: timeout of the call.
            repeats: maximum retries after an overload.
        """
        self._ends = time.monotonic() + seconds
        self._repeats = repeats

    def left(self) -> float:
        """Return the seconds until the deadline; 0 if it has passed."""
        return max(0.0, self._ends - time.monotonic())

    def pause(self, error: VireoError) -> float | None:
        """Return the seconds to wait before a retry; None if the call fails with `error`.

        It is retried if the server is overloaded and its retry delay ends before the deadline.
        """
        if not isinstance(error, Overloaded) or error.retry_after is None or not self._repeats:
            return None
        # Jitter: clients that were shed together must not retry together.
        seconds = error.retry_after.total_seconds() * random.uniform(1.0, 1.2)  # noqa: S311
        if seconds >= self.left():
            return None
        self._repeats -= 1
        return max(0.0, seconds)
