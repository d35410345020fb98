"""Attributes of videos as columns, and for which of many videos a filter holds.

Those of a release's videos are mapped; those of new and changed ones follow the catalogue, so that
filters judge them at once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from vireo.server.arrays import BoolArray, Float64Array, Int32Array, Int64Array
from vireo.server.features.keys import video_key
from vireo.server.recommend.filters.declared import (
    CREATOR,
    DURATION,
    PUBLISHED,
    TAG,
    Declared,
    label,
)
from vireo.server.recommend.filters.expression import Condition, FilterExpression
from vireo.server.releases import layout
from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.tables import Texts, read_mapped_texts, read_rows, read_table

if TYPE_CHECKING:
    from vireo.v1.catalog_pb2 import Video

FILES = layout.ATTRIBUTE_TABLES


def mask_of(expression: FilterExpression, columns: AttributeTable | _LiveColumns) -> BoolArray:
    """Return for which videos a filter holds, bool[n]; the same as its `holds` of each video."""
    mask = np.ones(columns.count, np.bool_)
    for condition in expression.conditions:
        _narrow(mask, condition, columns)
    if expression.any:
        either = np.zeros(columns.count, np.bool_)
        for each in expression.any:
            either |= mask_of(each, columns)
        mask &= either
    for each in expression.none:
        mask &= ~mask_of(each, columns)
    return mask


def _narrow(mask: BoolArray, condition: Condition, columns: AttributeTable | _LiveColumns) -> None:
    """Clear the videos that don't meet a condition."""
    if condition.min is not None:
        mask &= columns.number(condition.attribute) >= condition.min  # no NaN is
    if condition.max is not None:
        mask &= columns.number(condition.attribute) <= condition.max
    if condition.any_of:
        mask &= _with_any(condition.any_of, columns)
    for each in condition.all_of:
        mask &= _with_any((each,), columns)
    for each in condition.none_of:
        mask[columns.with_label(each)] = False


def _with_any(labels: tuple[str, ...], columns: AttributeTable | _LiveColumns) -> BoolArray:
    found = np.zeros(columns.count, np.bool_)
    for each in labels:
        found[columns.with_label(each)] = True
    return found


@dataclass(frozen=True)
class AttributeTable:
    """Attributes of n videos, mapped. Safe to use from several threads."""

    declared: Declared
    count: int
    """n."""
    labels: Texts
    """Each label, "attribute=value", in the order of their bytes, which is that of texts too."""
    offsets: Int64Array
    """int64[v + 1]: where the rows of each label begin."""
    rows: Int32Array
    """int32[t]: rows of each label's videos."""
    numbers: Float64Array
    """float64[n, k], in the order of `declared.numbers`; NaN if unknown."""

    @staticmethod
    def load(folder: Path, count: int) -> AttributeTable:
        """Load it from a release's folder.

        Raises:
            ReleaseError: a file is missing or invalid; the message names it.
        """
        declared = Declared.read(folder)
        offsets = read_table(folder, layout.LABEL_OFFSETS, np.int64, (None,))
        rows = read_rows(folder, layout.LABEL_ROWS, np.int32, (None,), videos=count)
        if not len(offsets) or (offsets[0], offsets[-1]) != (0, len(rows)):
            raise ReleaseError(f"{folder / layout.LABEL_OFFSETS}: must go from 0 to {len(rows)}")
        if (np.diff(offsets) < 0).any():
            raise ReleaseError(f"{folder / layout.LABEL_OFFSETS}: must not descend")
        labels = read_mapped_texts(folder / layout.LABELS, len(offsets) - 1)
        for one, following in pairwise(labels):
            if one >= following:  # a search would miss labels, and so would a filter
                raise ReleaseError(
                    f"{folder / layout.LABELS}: {following!r} must not follow {one!r}"
                )
        shape = (count, len(declared.numbers))
        numbers = read_table(folder, layout.NUMBERS, np.float64, shape, missing=True)
        return AttributeTable(declared, count, labels, offsets, rows, numbers)

    def place(self, text: str) -> int:
        """Return the number of a label, "attribute=value"; -1 if no video of the release has it."""
        place = bisect_left(self.labels, text)
        return place if place < len(self.labels) and self.labels[place] == text else -1

    def attributes_of(self, row: int) -> tuple[set[str], dict[str, float]]:
        """Return a video's labels, each "attribute=value", and its numbers; reads all labels."""
        places = (self.rows == row).nonzero()[0]
        labels = np.searchsorted(self.offsets, places, side="right") - 1
        numbers = dict(zip(self.declared.numbers, self.numbers[row].tolist(), strict=True))
        return {self.labels[label] for label in labels.tolist()}, numbers

    def with_label(self, label: str) -> Int32Array:
        """Return the rows of the videos that have a label, "attribute=value", in any order."""
        place = self.place(label)
        if place < 0:
            return self.rows[:0]
        return self.rows[self.offsets[place] : self.offsets[place + 1]]

    def number(self, attribute: str) -> Float64Array:
        """Return the number of each video, float64[n], NaN if unknown."""
        return self.numbers[:, self.declared.numbers.index(attribute)]


class ForwardIndex:
    """Labels by video, of the attributes that were asked for. Safe to use from several threads.

    It isn't made with the release: the attributes of a million videos together can take 60 MB, and
    only those that caps count are ever read. Each takes 8 bytes a video and 4 a label.
    """

    def __init__(self, table: AttributeTable) -> None:
        """Start with no attribute."""
        self.table = table
        self._made: dict[str, tuple[Int64Array, Int32Array]] = {}
        self._lock = Lock()

    def has(self, attribute: str) -> bool:
        """Return whether an attribute is made, so that `labels_of` takes no time to make it."""
        return attribute in self._made

    def labels_of(self, rows: Int64Array, attribute: str) -> list[Int32Array]:
        """Return the numbers of the labels that each of some rows has of an attribute."""
        # Without the lock, which another thread holds for as long as it makes another attribute.
        offsets, labels = self._made.get(attribute) or self.make(attribute)
        begins, ends = offsets.take(rows).tolist(), offsets.take(rows + 1).tolist()
        return [labels[begin:end] for begin, end in zip(begins, ends, strict=True)]

    def make(self, attribute: str) -> tuple[Int64Array, Int32Array]:
        """Return an attribute's labels, made if they aren't yet: 40 ms for a million videos.

        Returns:
            Where each video's labels begin, int64[n + 1], and the labels, int32[t].
        """
        with self._lock:  # else all calls that wait for them would make them
            made = self._made.get(attribute)
            if made is None:
                made = self._made[attribute] = self._transposed(attribute)
        return made

    def _transposed(self, attribute: str) -> tuple[Int64Array, Int32Array]:
        table = self.table
        first = bisect_left(table.labels, label(attribute, ""))
        # Labels are sorted, and ">" follows "=".
        last = bisect_left(table.labels, f"{attribute}>")
        sizes = np.diff(table.offsets[first : last + 1])
        rows = table.rows[table.offsets[first] : table.offsets[last]]
        labels = np.repeat(np.arange(first, last), sizes)
        offsets = np.zeros(table.count + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=table.count), out=offsets[1:])
        # Sorting row and label as one number takes a tenth of sorting labels by their rows.
        pairs = np.sort(rows.astype(np.int64) << 32 | labels)
        return offsets, pairs.astype(np.int32)


def labels_of(video: Video, declared: Declared) -> Iterator[str]:
    """Yield the labels that a release declares of a video of the catalogue."""
    for tag in video.tags:
        yield label(TAG, tag)
    if video.creator:
        yield label(CREATOR, video.creator)
    for each in video.attributes:
        if each.name in declared.labels and each.name not in (TAG, CREATOR):
            for value in each.labels:
                yield label(each.name, value)


def numbers_of(video: Video, declared: Declared) -> dict[str, float]:
    """Return the numbers that a release declares of a video of the catalogue; finite ones."""
    found = {
        each.name: each.number
        for each in video.attributes
        if each.name in declared.numbers and each.HasField("number")
    }
    found.pop(DURATION, None)
    found.pop(PUBLISHED, None)
    if video.HasField("duration"):
        found[DURATION] = video.duration
    if video.HasField("published"):
        found[PUBLISHED] = video.published.seconds + video.published.nanos / 1e9
    return {name: number for name, number in found.items() if math.isfinite(number)}


class LiveAttributes:
    """Attributes of live videos by their place, as the last change of each has them.

    Each change has a number, so that a filter is evaluated for those that came since it was last.
    """

    def __init__(self, declared: Declared, room: int) -> None:
        """Start without a video; there is room for so many."""
        self.declared = declared
        self.changes = 0
        """Number of changes so far."""
        # Pages that nothing was written to take no memory.
        self.numbers = np.zeros((room, len(declared.numbers)))
        """As `declared.numbers`, NaN if unknown, float64[room, k]."""
        self._last_change = np.zeros(room, np.int64)
        self._labels: list[bytes] = []
        """Keys of each video's labels: the hash that stands for video ids too."""

    def put(self, place: int, video: Video) -> None:
        """Set what is known of the video at a place, which is at most the first one unused."""
        keys = [*{video_key(text) for text in labels_of(video, self.declared)}]
        known = numbers_of(video, self.declared)
        self.numbers[place] = [known.get(name, math.nan) for name in self.declared.numbers]
        self._set(place, np.array(keys, np.int64).tobytes())

    def drop(self, place: int) -> None:
        """Forget the video at a place."""
        self._set(place, b"")

    def _set(self, place: int, labels: bytes) -> None:
        self._labels[place : place + 1] = [labels]
        self.changes += 1
        self._last_change[place] = self.changes

    def changed_after(self, change: int) -> Int64Array:
        """Return the places of the videos with a change after that one, int64[m]."""
        return (self._last_change[: len(self._labels)] > change).nonzero()[0]

    def holds(self, expression: FilterExpression, places: Int64Array) -> BoolArray:
        """Return for which of some videos a filter holds, bool[m]."""
        labels = [self._labels[place] for place in places.tolist()]
        columns = _LiveColumns(
            self.declared,
            self.numbers.take(places, axis=0),
            np.frombuffer(b"".join(labels), np.int64),
            np.repeat(np.arange(len(labels)), [len(each) // 8 for each in labels]),
        )
        return mask_of(expression, columns)


@dataclass(frozen=True)
class _LiveColumns:
    """Attributes of m videos."""

    declared: Declared
    numbers: Float64Array
    """float64[m, k]."""
    labels: Int64Array
    """Keys of all their labels, int64[t]."""
    videos: Int64Array
    """Which of the videos has each label, int64[t]."""

    @property
    def count(self) -> int:
        return len(self.numbers)

    def with_label(self, label: str) -> Int64Array:
        found: Int64Array = self.videos[self.labels == video_key(label)]
        return found

    def number(self, attribute: str) -> Float64Array:
        return self.numbers[:, self.declared.numbers.index(attribute)]
