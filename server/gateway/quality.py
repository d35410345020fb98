"""Number of candidates to request: fewer while pods are slow, all of them again after."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_WEIGHT = 0.15
"""Weight of the latest call in the moving average of slow ones."""
_OFTEN = 0.2
"""Average above which calls are often slow: two slow calls in a row reach it, one doesn't."""
_SHRINK = 0.7
"""Factor of a step down."""
_PAUSE_SECONDS = 0.25
"""Minimum seconds between two steps down: calls in flight at the first don't show its effect."""
_GROWTH = 0.25
"""Share of the full number regained each second: all of it in four."""


class Quality:
    """The quality factor: it shrinks while calls are often slow, and grows back steadily."""

    def __init__(self, min_candidates: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with all candidates; `min_candidates` is the minimum to request."""
        self._min_candidates = min_candidates
        self._min_factor = 0.0
        self._clock = clock
        self._lateness = 0.0
        self._factor, self._since = 1.0, -math.inf

    def factor(self) -> float:
        """Return the share of candidates to request now, at most 1."""
        grown = self._factor + _GROWTH * (self._clock() - self._since)
        return min(1.0, max(self._min_factor, grown))

    def count(self, page_size: int, candidates: int) -> int:
        """Return the number of candidates to request now.

        Args:
            page_size: the page that they must fill.
            candidates: number to request while pods are quick.
        """
        self._min_factor = min(1.0, self._min_candidates / candidates)
        return max(page_size, round(candidates * self.factor()))

    def timely(self) -> None:
        """Count a call that was answered in time."""
        self._lateness -= _WEIGHT * self._lateness

    def late(self) -> None:
        """Count a call that was slow, or shed by a pod."""
        self._lateness += _WEIGHT * (1 - self._lateness)
        now = self._clock()
        if self._lateness > _OFTEN and now - self._since >= _PAUSE_SECONDS:
            self._factor, self._since = max(self._min_factor, _SHRINK * self.factor()), now
