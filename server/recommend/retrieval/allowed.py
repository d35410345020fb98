"""Which videos a filter holds for, in the forms that searches need, and which are published."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np
from cachetools import LRUCache

from vireo.server.arrays import BoolArray, Int32Array, Int64Array
from vireo.server.recommend.filters.declared import PUBLISHED
from vireo.server.recommend.filters.expression import FilterExpression
from vireo.server.recommend.filters.table import AttributeTable, mask_of
from vireo.server.recommend.retrieval.index import RowBits, VideoIndex, contains

if TYPE_CHECKING:
    # It reads messages, for which benchmarks' environments lack stubs.
    from vireo.server.recommend.catalogue.live_videos import LiveVideos

MAX_LISTED = 0.25
"""Maximum share of the videos for which a filter's rows are listed: if more pass, so many of them
are in the nearest cells that they would not be looked up one by one."""

_ENTRY_BYTES = 1536
"""Bytes of a filter that is kept besides those of its arrays: objects, and its key."""
_MAX_INLINE = 5_000
"""Maximum videos for which filters are evaluated on the event loop, within 2 ms."""

_KEPT_ROWS = 16
"""Number of videos whose attributes are kept, since finding them reads all labels."""

_PART = 4096
"""Live videos for which a filter is evaluated in one go: with 64 labels that takes some 2 ms."""
_NO_ROWS: Int64Array = np.empty(0, np.int64)


class AppliedFilter:
    """Which of a release's n videos one filter holds for, and of the live ones if there is a log.

    What changed since is as of the last `updates`.
    """

    def __init__(
        self,
        expression: FilterExpression,
        mask: BoolArray,
        index: VideoIndex,
        live: LiveVideos | None = None,
        *,
        searched: bool = True,
    ) -> None:
        """Start without what changed.

        Args:
            expression: the filter.
            mask: for which videos it holds by the attributes that the release has, bool[n].
            index: the index of the videos' vectors.
            live: the live videos; None without a log.
            searched: whether videos are searched by it: without, no rows are listed.
        """
        self.key = expression.digest, searched
        """Under which it is kept: the digest of what it says, instead of its texts."""
        rows = mask.nonzero()[0]
        cells = index.cells_of(rows if searched else rows[:0])
        self.count, self.passing = len(mask), len(rows)
        """Number of videos; number that pass, by the mask."""
        self.bits: RowBits = np.packbits(mask, bitorder="little")
        """Bitmap of the passing rows."""
        self.cell_counts = np.bincount(cells, minlength=index.cells)
        """Number of them in each cell of the index, int64[cells]; empty if it has none."""
        self._list_ends = self.cell_counts.cumsum()
        self.listed: Int32Array | None = None
        """Those rows, cell by cell, int32[m]; None if they are too many, or there are no cells."""
        if searched and not index.exact and len(rows) <= MAX_LISTED * len(mask):
            self.listed = rows.astype(np.int32).take(np.argsort(cells, kind="stable"))
        self.live = np.empty(0, np.bool_)
        """Whether it holds for each live video by its place, bool[m]."""
        self.allowed_rows = self.forbidden_rows = _NO_ROWS
        """The release's rows that it holds for since they changed, int64[a], and those that it no
        longer does, int64[f]."""
        self._videos, self._seen = live, 0

    def rows_in(self, cells: Int64Array) -> Int32Array:
        """Return the listed rows in some cells, int32[k]."""
        assert self.listed is not None, "the rows are listed"
        counts = self.cell_counts.take(cells)
        ends = counts.cumsum()
        offsets = np.repeat(self._list_ends.take(cells) - ends, counts)
        rows: Int32Array = self.listed.take(np.arange(len(offsets)) + offsets)
        return rows

    def updates(self, expression: FilterExpression) -> Iterator[None]:
        """Evaluate what changed since the last update; yield after each part of it."""
        videos = self._videos
        if videos is None or videos.attributes is None:
            return
        while self._seen < videos.attributes.changes:
            changes = videos.attributes.changes
            places = videos.attributes.changed_after(self._seen)
            for begin in range(0, len(places), _PART):
                part = places[begin : begin + _PART]
                held = videos.attributes.holds(expression, part)
                self.live = np.append(self.live, np.zeros(videos.count - len(self.live), np.bool_))
                self.live[part] = held
                if begin + _PART >= len(places):  # before others may ask
                    own = videos.own_rows[: videos.count]
                    changed = (own >= 0).nonzero()[0]
                    rows, now = own.take(changed), self.live.take(changed)
                    before = contains(self.bits, rows)
                    self.allowed_rows = rows[now & ~before]
                    self.forbidden_rows = rows[~now & before]
                    self._seen = changes
                yield

    def holds(self, rows: Int64Array) -> BoolArray:
        """Return for which of some rows, those of live videos too, it holds, bool[k]."""
        first = 8 * len(self.bits)
        own = rows < first
        held = contains(self.bits, np.where(own, rows, 0))
        if len(self.allowed_rows):
            held |= np.isin(rows, self.allowed_rows)
        if len(self.forbidden_rows):
            held &= ~np.isin(rows, self.forbidden_rows)
        if len(self.live):
            held[~own] = self.live.take(rows[~own] - first)
        return held

    @property
    def share(self) -> float:
        """Share of the release's videos that it holds for, 0 to 1."""
        passing = self.passing + len(self.allowed_rows) - len(self.forbidden_rows)
        return passing / max(1, self.count)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        arrays = (
            *(self.bits, self.cell_counts, self._list_ends),
            *(self.live, self.allowed_rows, self.forbidden_rows),
        )
        listed = 0 if self.listed is None else self.listed.nbytes
        return _ENTRY_BYTES + listed + sum(array.nbytes for array in arrays)


class Filters:
    """The filters that one release's requests had lately, within a bound of bytes.

    Use it from one thread.
    """

    def __init__(
        self,
        table: AttributeTable,
        index: VideoIndex,
        max_bytes: int,
        live: LiveVideos | None = None,
    ) -> None:
        """Start empty.

        Args:
            table: attributes of the release's videos.
            index: index of their vectors.
            max_bytes: maximum bytes of what is kept; a filter that takes more isn't.
            live: the live videos; None without a log.
        """
        self.declared = table.declared
        self.attributes_of = lru_cache(_KEPT_ROWS)(table.attributes_of)
        self._table, self._index, self._live = table, index, live
        self._kept: LRUCache[tuple[bytes, bool], AppliedFilter] = LRUCache(
            max_bytes, lambda applied: applied.nbytes
        )
        self._in_use: WeakValueDictionary[tuple[bytes, bool], AppliedFilter] = WeakValueDictionary()
        self._making = asyncio.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept; in any thread."""
        return int(self._kept.currsize)

    def apply(self, expression: FilterExpression, *, searched: bool = True) -> AppliedFilter:
        """Return a filter as of now.

        Args:
            expression: what it says, of attributes that the release declares.
            searched: whether videos are searched by it; else it is only asked of some.
        """
        applied = self._found(expression, searched)
        applied = applied or self._keep(self._evaluated(expression, searched))
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
                        evaluated = await asyncio.to_thread(self._evaluated, each, searched)
                        applied = self._keep(evaluated)
            made.append(applied or self._keep(self._evaluated(each, searched)))
            for _ in self._updates(made[-1], each):
                await asyncio.sleep(0)
        return made

    def _updates(self, applied: AppliedFilter, expression: FilterExpression) -> Iterator[None]:
        """Take over what changed since, part by part."""
        for _ in applied.updates(expression):
            self._keep(applied)  # it has another size now
            yield

    def _found(self, expression: FilterExpression, searched: bool) -> AppliedFilter | None:
        key = expression.digest, searched
        return self._kept.get(key) or self._in_use.get(key)

    def _evaluated(self, expression: FilterExpression, searched: bool) -> AppliedFilter:
        mask = mask_of(expression, self._table)
        return AppliedFilter(expression, mask, self._index, self._live, searched=searched)

    def _keep(self, applied: AppliedFilter) -> AppliedFilter:
        self._in_use[applied.key] = applied
        self._kept.pop(applied.key, None)
        if applied.nbytes <= self._kept.maxsize:
            self._kept[applied.key] = applied
        return applied


class Embargo:
    """Knows by the clock which videos aren't published yet: those are no candidates."""

    def __init__(
        self,
        table: AttributeTable,
        live: LiveVideos | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Find the release's videos that are published later than now.

        Args:
            table: attributes of the release's videos.
            live: the live videos; None without a log.
            clock: Unix time in seconds.
        """
        self._column = table.declared.numbers.index(PUBLISHED)
        times = table.number(PUBLISHED)
        self._rows = (times > clock()).nonzero()[0]  # an unknown time, NaN, is past
        self._times = times.take(self._rows)
        self._live, self._clock, self._count = live, clock, table.count
        self._found, self._until, self._seen = self._rows, -np.inf, 0

    def unpublished(self) -> Int64Array:
        """Return the rows of the videos that aren't published yet, live ones too.

        It takes no time while none is published, and nothing in the catalogue changes.
        """
        attributes = None if self._live is None else self._live.attributes
        changes, now = 0 if attributes is None else attributes.changes, self._clock()
        if now >= self._until or changes != self._seen:
            left = self._times > now
            rows, times = self._rows[left], self._times[left]
            if self._live is not None and attributes is not None:
                # A change counts, and not what the release says; new videos, -1, come last.
                own = self._live.own_rows[: self._live.count]
                is_changed = np.zeros(self._count + 1, np.bool_)
                is_changed[own] = True
                kept = ~is_changed.take(rows)
                dates = attributes.numbers[: len(own), self._column]
                late = dates > now
                beyond = late.nonzero()[0] + self._live.first
                rows = np.concatenate([rows[kept], own[late & (own >= 0)], beyond])
                times = np.concatenate([times[kept], dates[late]])
            self._found, self._until = rows, float(times.min(initial=np.inf))
            self._seen = changes
        return self._found
