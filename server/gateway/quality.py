"""How many candidates to ask for: fewer while pods are late, all of them again after."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_WEIGHT = 0.15
"""Of the latest call in the moving average of late ones."""
_OFTEN = 0.2
"""The average above which calls are late often. One late call after timely ones doesn't reach it,
two in a row do."""
_SHRINK = 0.7
_PAUSE_SECONDS = 0.25
"""Between two steps down: calls that were under way at the first tell nothing of its effect."""
_GROWTH = 0.25
"""Of the full count, each second: from next to nothing to all of it in four."""


class Quality:
    """The quality factor: down by a share while calls are often late, up by steady growth."""

    def __init__(self, least: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with all candidates.

        Args:
            least: how few candidates to ask for at worst.
            clock: gives seconds.
        """
        self._least = least
        self._min_factor = 0.0
        self._clock = clock
        self._lateness = 0.0
        self._factor, self._since = 1.0, -math.inf

    def factor(self) -> float:
        """The share of candidates to ask for now, at most 1."""
        grown = self._factor + _GROWTH * (self._clock() - self._since)
        return min(1.0, max(self._min_factor, grown))

    def count(self, page_size: int, candidates: int) -> int:
        """Return how many candidates to ask for now.

        Args:
            page_size: the page that they must fill.
            candidates: how many to ask for while all is well.
        """
        self._min_factor = min(1.0, self._least / candidates)
        return max(page_size, round(candidates * self.factor()))

    def timely(self) -> None:
        """A call has been answered in time."""
        self._lateness -= _WEIGHT * self._lateness

    def late(self) -> None:
        """A call took long, or was refused by a pod that has too many."""
        self._lateness += _WEIGHT * (1 - self._lateness)
        now = self._clock()
        if self._lateness > _OFTEN and now - self._since >= _PAUSE_SECONDS:
            self._factor, self._since = max(self._min_factor, _SHRINK * self.factor()), now
