"""Which of a release's videos a filter holds for, in the forms that the search needs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from weakref import WeakValueDictionary

import numpy as np
from cachetools import LRUCache

from vireo.server.arrays import BoolArray, Int32Array, Int64Array
from vireo.server.recommend.catalogue.attributes import ChangedAttributes, ChangedVideos
from vireo.server.recommend.filters.expression import FilterExpression
from vireo.server.recommend.filters.table import AttributeTable
from vireo.server.recommend.retrieval.index import VideoIndex
from vireo.server.recommend.retrieval.row_bits import RowBits, contains

MAX_LISTED = 0.25
"""Maximum share of the videos for which a filter's rows are listed: if more pass, so many of them
are in the nearest cells that they would not be looked up one by one."""

_ENTRY_BYTES = 1536
"""Bytes of a filter that is kept besides those of its arrays: objects, and its key."""
_MAX_INLINE = 5_000
"""Maximum videos for which filters are evaluated on the event loop, within 2 ms."""

_KEPT_ROWS = 16
"""Number of videos whose attributes are kept, since finding them reads all labels."""

_NO_ROWS: Int64Array = np.empty(0, np.int64)


@dataclass(frozen=True)
class Allowed:
    """The rows of a release's n videos that one filter holds for, m of them."""

    count: int
    """n."""
    bits: RowBits
    passing: int
    """m."""
    cell_counts: Int64Array
    """Number of them in each cell of the index, int64[cells]; empty if it has none."""
    listed: Int32Array | None
    """Those rows, cell by cell, int32[m]; None if they are too many, or there are no cells."""
    list_ends: Int64Array
    """End of each cell's part of that list, int64[cells]."""

    @staticmethod
    def of(mask: BoolArray, index: VideoIndex, *, searched: bool = True) -> Allowed:
        """Return it for a mask of all videos, bool[n]; without `searched` no list is made."""
        rows = mask.nonzero()[0]
        cells = index.cells_of(rows if searched else rows[:0])
        counts = np.bincount(cells, minlength=index.cells)
        listed = searched and not index.exact and len(rows) <= MAX_LISTED * len(mask)
        return Allowed(
            len(mask),
            np.packbits(mask, bitorder="little"),
            len(rows),
            counts,
            rows.astype(np.int32).take(np.argsort(cells, kind="stable")) if listed else None,
            counts.cumsum(),
        )

    def rows_in(self, cells: Int64Array) -> Int32Array:
        """Return the listed rows in some cells, int32[k]."""
        assert self.listed is not None, "the rows are listed"
        counts = self.cell_counts.take(cells)
        ends = counts.cumsum()
        offsets = np.repeat(self.list_ends.take(cells) - ends, counts)
        rows: Int32Array = self.listed.take(np.arange(len(offsets)) + offsets)
        return rows

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        arrays = (self.bits, self.cell_counts, self.list_ends)
        own = 0 if self.listed is None else self.listed.nbytes
        return own + sum(array.nbytes for array in arrays)

    def holds(self, rows: Int64Array) -> BoolArray:
        """Return for which of some rows the filter holds, bool[k]."""
        return contains(self.bits, rows)


@dataclass(frozen=True)
class AppliedFilter:
    """One filter, as of one moment."""

    key: tuple[bytes, bool]
    """The digest of what it says, and whether videos are searched by it."""
    allowed: Allowed
    """By the attributes that the release has."""
    changed: ChangedVideos | None = None
    """By those that changed since; None without a log."""

    @property
    def allowed_rows(self) -> Int64Array:
        """Rows that it holds for since they changed, int64[a]."""
        return _NO_ROWS if self.changed is None else self.changed.allowed_rows

    @property
    def forbidden_rows(self) -> Int64Array:
        """Rows that it no longer holds for since they changed, int64[f]."""
        return _NO_ROWS if self.changed is None else self.changed.forbidden_rows

    def holds(self, rows: Int64Array) -> BoolArray:
        """Return for which of some rows of the release it holds, bool[k]."""
        held = self.allowed.holds(rows)
        if len(self.allowed_rows):
            held |= np.isin(rows, self.allowed_rows)
        if len(self.forbidden_rows):
            held &= ~np.isin(rows, self.forbidden_rows)
        return held

    @property
    def share(self) -> float:
        """Share of the release's videos that it holds for, 0 to 1."""
        passing = self.allowed.passing + len(self.allowed_rows) - len(self.forbidden_rows)
        return passing / max(1, self.allowed.count)


class Filters:
    """The filters that one release's requests had lately, within a bound of bytes."""

    def __init__(
        self,
        table: AttributeTable,
        index: VideoIndex,
        max_bytes: int,
        changed: ChangedAttributes | None = None,
    ) -> None:
        """Start empty.

        Args:
            table: attributes of the release's videos.
            index: index of their vectors.
            max_bytes: maximum bytes of what is kept; a filter that takes more isn't.
            changed: attributes that changed since the release was trained; None without a log. With
                them, call `apply` from one thread.
        """
        self.declared = table.declared
        self.attributes_of = lru_cache(_KEPT_ROWS)(table.attributes_of)
        self._table, self._index, self._changed = table, index, changed
        self._kept: LRUCache[tuple[bytes, bool], AppliedFilter] = LRUCache(max_bytes, _nbytes)
        self._in_use: WeakValueDictionary[tuple[bytes, bool], AppliedFilter] = WeakValueDictionary()
        self._lock = Lock()
        self._making = asyncio.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        with self._lock:
            return int(self._kept.currsize)

    def clear(self) -> None:
        """Drop what is kept."""
        with self._lock:
            self._kept.clear()

    def apply(self, expression: FilterExpression, *, searched: bool = True) -> AppliedFilter:
        """Return a filter as of now.

        Args:
            expression: what it says, of attributes that the release declares.
            searched: whether videos are searched by it; else it is only asked of some.
        """
        applied = self._found(expression, searched) or self._make(expression, searched)
        for _ in self._updates(applied, expression):
            pass
        return applied

    async def make(
        self, expressions: Iterable[tuple[FilterExpression, bool]]
    ) -> list[AppliedFilter]:
        """Return filters; `apply` finds them, whatever the bound, as long as the caller holds them.

        They are evaluated without holding up the event loop. For the release's videos in a thread:
        NumPy lets the event loop run meanwhile. One at a time: others would be slower for it, and
        want the same ones. For what changed, part by part. `apply` says what the arguments are.
        """
        made = list[AppliedFilter]()
        for each, searched in expressions:
            applied = self._found(each, searched)
            if applied is None and self._table.count > _MAX_INLINE:
                async with self._making:
                    if (applied := self._found(each, searched)) is None:
                        applied = await asyncio.to_thread(self._make, each, searched)
            made.append(applied or self._make(each, searched))
            for _ in self._updates(made[-1], each):
                await asyncio.sleep(0)
        return made

    def _updates(self, applied: AppliedFilter, expression: FilterExpression) -> Iterator[None]:
        """Take over what changed since, part by part."""
        if applied.changed is not None and self._changed is not None:
            for _ in applied.changed.update(expression, self._changed, applied.allowed.holds):
                self._keep(applied)  # it has another size now
                yield

    def _found(self, expression: FilterExpression, searched: bool) -> AppliedFilter | None:
        key = expression.digest, searched
        with self._lock:
            return self._kept.get(key) or self._in_use.get(key)

    def _make(self, expression: FilterExpression, searched: bool) -> AppliedFilter:
        mask = self._table.mask(expression)
        allowed = Allowed.of(mask, self._index, searched=searched)
        changed = None if self._changed is None else ChangedVideos()
        applied = AppliedFilter((expression.digest, searched), allowed, changed)
        self._keep(applied)
        return applied

    def _keep(self, applied: AppliedFilter) -> None:
        with self._lock:
            self._in_use[applied.key] = applied
            self._kept.pop(applied.key, None)
            if _nbytes(applied) <= self._kept.maxsize:
                self._kept[applied.key] = applied


def _nbytes(applied: AppliedFilter) -> int:
    held = 0 if applied.changed is None else applied.changed.held.nbytes
    rows = applied.allowed_rows.nbytes + applied.forbidden_rows.nbytes
    return _ENTRY_BYTES + applied.allowed.nbytes + held + rows
