"""When a loader tries again: backoff after consecutive failures."""

from __future__ import annotations

import time

from vireo.server.backoff import backoff


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
        return self._longer(0.25, 3.0)

    def look_failed(self) -> float:
        """Record a failed read of the channel; return the delay to the next one."""
        return self._longer(self._poll_seconds, 5.0)

    def load_failed(self, release_id: str) -> float:
        """Record a failed load, which puts the release off; return the delay to the next read."""
        if release_id != self._put_off[0]:
            self.failures = 0
        self._put_off = (release_id, time.monotonic() + self._longer(self._poll_seconds, 30.0))
        return self._poll_seconds

    def is_put_off(self, release_id: str) -> bool:
        """Return whether the release was put off and isn't due yet."""
        failed, until = self._put_off
        return release_id == failed and time.monotonic() < until

    def _longer(self, first: float, maximum: float) -> float:
        self.failures += 1
        return backoff(self.failures, first, max(first, maximum))
