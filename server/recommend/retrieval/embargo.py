"""Videos whose publication date is yet to come, which are no candidates before it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.recommend.filters.declared import PUBLISHED
from vireo.server.recommend.filters.table import AttributeTable

if TYPE_CHECKING:
    from vireo.server.recommend.catalogue.attributes import ChangedAttributes


class Unpublished(NamedTuple):
    """The videos that aren't published yet, until one is or the catalogue changes."""

    rows: Int64Array
    """Rows of the release, int64[u]."""
    slots: BoolArray
    """Whether the video in each slot of the changed attributes is one, bool[s]."""
    until: float
    """When the next one is published, Unix seconds."""
    changes: tuple[int, int]
    """State of the changed attributes that it is computed from."""


class Embargo:
    """Knows a release's unpublished videos and those beside it, by the clock."""

    def __init__(
        self,
        table: AttributeTable,
        changed: ChangedAttributes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Find the release's videos that are published later than now.

        Args:
            table: attributes of the release's videos.
            changed: attributes that changed since the release was trained; None without a log.
            clock: Unix time in seconds.
        """
        self._changed, self._clock, self._count = changed, clock, table.count
        numbers = table.declared.numbers
        self._column = numbers.index(PUBLISHED) if PUBLISHED in numbers else None
        times = table.number(PUBLISHED) if self._column is not None else np.empty(0)
        self._rows = (times > clock()).nonzero()[0]  # an unknown time, NaN, is past
        self._times = times.take(self._rows)
        self._found = Unpublished(self._rows, np.empty(0, np.bool_), -np.inf, (0, 0))

    def unpublished(self) -> Unpublished:
        """Return the videos that aren't published yet; it takes no time while none changes."""
        changed, now = self._changed, self._clock()
        changes = (changed.rebuilt, changed.end) if changed is not None else (0, 0)
        if now >= self._found.until or changes != self._found.changes:
            self._found = self._as_of(now, changes)
        return self._found

    def holds(self, key: int, row: int) -> bool:
        """Return whether a video isn't published yet; `row` is -1 if the release lacks it."""
        found = self.unpublished()
        slot = self._changed.slots.get(key) if self._changed is not None else None
        return bool(found.slots[slot]) if slot is not None else row in found.rows

    def _as_of(self, now: float, changes: tuple[int, int]) -> Unpublished:
        left = self._times > now
        rows, times = self._rows[left], self._times[left]
        slots = np.zeros(0 if self._changed is None else self._changed.count, np.bool_)
        if self._changed is not None and self._column is not None:
            own = self._changed.own_rows[: self._changed.count]
            dates = self._changed.numbers[: len(own), self._column]
            slots = dates > now
            # A change counts, and not what the release says; new videos, -1, have the last place.
            is_changed = np.zeros(self._count + 1, np.bool_)
            is_changed[own] = True
            kept = ~is_changed.take(rows)
            rows = np.concatenate([rows[kept], own[slots & (own >= 0)]])
            times = np.concatenate([times[kept], dates[slots]])
        return Unpublished(rows, slots, float(times.min(initial=np.inf)), changes)
