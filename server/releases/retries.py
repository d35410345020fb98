"""When to try again what has failed: soon at first, then less and less often."""

from __future__ import annotations

import time

_FIRST_DELAY = 0.25
_LONGEST_UNSERVED_DELAY = 3.0
_LONGEST_LOOK_DELAY = 5.0
_LONGEST_LOAD_DELAY = 30.0


class Retries:
    """Delays after failures in a row. All times are in seconds."""

    def __init__(self, poll_seconds: float) -> None:
        """Takes how often to look at the channel when all is well."""
        self._poll_seconds = poll_seconds
        self.failures = 0
        """How many attempts in a row have failed."""
        # A release that failed to load, and when to try it again.
        self._put_off = ("", 0.0)

    def succeeded(self) -> None:
        """Begins anew."""
        self.failures = 0
        self._put_off = ("", 0.0)

    def unserved_failed(self) -> float:
        """An attempt failed with nothing to serve; the time to the next, never long."""
        return min(_FIRST_DELAY * self._longer(), _LONGEST_UNSERVED_DELAY)

    def look_failed(self) -> float:
        """A look at the channel failed; the time to the next."""
        longest = max(self._poll_seconds, _LONGEST_LOOK_DELAY)
        return min(self._poll_seconds * self._longer(), longest)

    def load_failed(self, release_id: str) -> float:
        """A load failed: it is put off. The time to the next look: others may be named soon."""
        if release_id != self._put_off[0]:
            self.failures = 0
        longest = max(self._poll_seconds, _LONGEST_LOAD_DELAY)
        until = time.monotonic() + min(self._poll_seconds * self._longer(), longest)
        self._put_off = (release_id, until)
        return self._poll_seconds

    def is_put_off(self, release_id: str) -> bool:
        """Whether the time to try a release again hasn't come."""
        failed, until = self._put_off
        return release_id == failed and time.monotonic() < until

    def _longer(self) -> float:
        self.failures += 1
        return float(2.0 ** min(self.failures - 1, 10))
