"""What is left of one call: its time, and the one repetition that an overload allows."""

from __future__ import annotations

import random
import time

from vireo_client.errors import Overloaded, VireoError


class CallBudget:
    """Counts down from when it is made."""

    def __init__(self, seconds: float, repeats: int) -> None:
        """Takes the seconds, and how often the call may be repeated after an overload."""
        self._ends = time.monotonic() + seconds
        self._repeats = repeats

    def left(self) -> float:
        """Seconds until the deadline; 0 once it has passed."""
        return max(0.0, self._ends - time.monotonic())

    def pause(self, error: VireoError) -> float | None:
        """Seconds to wait before the call is repeated; None where it is to fail with `error`.

        It is repeated when the server is overloaded, says when to come back, and that is in time.
        """
        if not isinstance(error, Overloaded) or error.retry_after is None or not self._repeats:
            return None
        # Clients that were turned away together must not come back together.
        seconds = error.retry_after.total_seconds() * random.uniform(1.0, 1.2)  # noqa: S311
        if seconds >= self.left():
            return None
        self._repeats -= 1
        return max(0.0, seconds)
