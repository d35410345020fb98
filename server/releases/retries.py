"""Backoff between attempts: short at first, then longer and longer."""

from __future__ import annotations

import time

_FIRST_DELAY = 0.25
_MAX_UNSERVED_DELAY = 3.0
_MAX_LOOK_DELAY = 5.0
_MAX_LOAD_DELAY = 30.0


class Retries:
    """Backoff after consecutive failures. All times are in seconds."""

    def __init__(self, poll_seconds: float) -> None:
        """Start without failures; `poll_seconds` is the delay between reads of the channel."""
        self._poll_seconds = poll_seconds
        self.failures = 0
        """Number of consecutive failures."""
        # Release that failed to load, and when to retry it.
        self._put_off = ("", 0.0)

    def succeeded(self) -> None:
        """Reset the backoff."""
        self.failures = 0
        self._put_off = ("", 0.0)

    def unserved_failed(self) -> float:
        """Record a failure with nothing to serve; return the delay, never long."""
        return min(_FIRST_DELAY * self._longer(), _MAX_UNSERVED_DELAY)

    def look_failed(self) -> float:
        """Record a failed read of the channel; return the delay to the next one."""
        max_delay = max(self._poll_seconds, _MAX_LOOK_DELAY)
        return min(self._poll_seconds * self._longer(), max_delay)

    def load_failed(self, release_id: str) -> float:
        """Record a failed load, which puts the release off; return the delay to the next read."""
        if release_id != self._put_off[0]:
            self.failures = 0
        max_delay = max(self._poll_seconds, _MAX_LOAD_DELAY)
        until = time.monotonic() + min(self._poll_seconds * self._longer(), max_delay)
        self._put_off = (release_id, until)
        return self._poll_seconds

    def is_put_off(self, release_id: str) -> bool:
        """Return whether the release was put off and isn't due yet."""
        failed, until = self._put_off
        return release_id == failed and time.monotonic() < until

    def _longer(self) -> float:
        self.failures += 1
        return float(2.0 ** min(self.failures - 1, 10))
