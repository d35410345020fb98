"""Remaining time and retries of one call."""

from __future__ import annotations

import random
import time
from datetime import timedelta

from vireo_client.errors import Overloaded, Unavailable, VireoError

_RECONNECT = timedelta(seconds=0.1)
"""Delay before a retry that no server asked for."""


class CallBudget:
    """A deadline, and a number of retries after an overload."""

    def __init__(self, seconds: float, repeats: int, *, writes: bool) -> None:
        """Start the time.

        Args:
            seconds: timeout of the call.
            repeats: maximum retries after the server's delay.
            writes: whether the call changes something.
        """
        self._ends = time.monotonic() + seconds
        self._repeats = repeats
        self._refusals = (Overloaded, Unavailable) if writes else (Overloaded,)

    def left(self) -> float:
        """Return the seconds until the deadline; 0 if it has passed."""
        return max(0.0, self._ends - time.monotonic())

    def pause(self, error: VireoError) -> float | None:
        """Return the seconds to wait before a retry; None if the call fails with `error`.

        It is retried if the server is overloaded, or can't write what is to be written, and its
        retry delay ends before the deadline.
        """
        if not isinstance(error, self._refusals) or not self._repeats:
            return None
        after = error.retry_after
        if after is None:
            if not isinstance(error, Unavailable):
                return None
            after = _RECONNECT  # the connection was lost: nothing else repeats this call
        # Jitter: clients that were shed together must not retry together.
        seconds = after.total_seconds() * random.uniform(1.0, 1.2)  # noqa: S311
        if seconds >= self.left():
            return None
        self._repeats -= 1
        return max(0.0, seconds)
