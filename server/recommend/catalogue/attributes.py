"""Attributes of the catalogue's new and changed videos, by which filters judge them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from vireo.server.recommend.filters.expression import FilterExpression
from vireo.server.recommend.filters.mask import mask_of

if TYPE_CHECKING:
    from vireo.v1.catalog_pb2 import Video

_NOTHING = 0
"""In the place of a label's key: a video came, changed or went, or had a label before."""
_FIRST_ENTRIES = 1024
_PART_ENTRIES = 32 << 10
"""Entries that a filter is evaluated for in one go: with 64 labels that takes some 2 ms."""


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


class ChangedAttributes:
    """Attributes of m videos, a slot each. Use it from one thread.

    Labels are the entries of a list that grows: those that came since a filter was last evaluated
    are at its end, so that a change costs little however many videos there are. Labels are
    compared by the hash that stands for video ids too.
    """

    def __init__(self, declared: Declared, room: int) -> None:
        """Start without a video; there is room for so many."""
        self.declared = declared
        self.slots: dict[int, int] = {}
        """Slot of each key."""
        self.count = 0
        """Number of slots, unused ones included."""
        # Pages that nothing was written to take no memory.
        self.own_rows = np.zeros(room, np.int64)
        """The release's row of each changed video; -1 of new ones, and of unused slots; `count` of
        them, as in all columns."""
        self.numbers = np.zeros((room, len(declared.numbers)))
        self.rebuilt = 0
        """How often the entries were renumbered: positions from before are void."""
        self.end = 0
        """Number of entries, and so the position after the last one."""
        self._labels = np.zeros(_FIRST_ENTRIES, np.int64)
        self._slots = np.zeros(_FIRST_ENTRIES, np.int32)
        self._begin = np.zeros(room, np.int32)
        self._size = np.zeros(room, np.int32)
        self._free: list[int] = []

    def put(self, key: int, own_row: int, video: Video) -> None:
        """Set what is known of a video: a new one, whose `own_row` is -1, or a changed one."""
        slot = self.slots.get(key)
        if slot is None:
            slot = self._free.pop() if self._free else self.count
            self.count = max(self.count, slot + 1)
            self.slots[key] = slot
        keys = {video_key(text) for text in labels_of(video, self.declared)}
        self.own_rows[slot] = own_row
        known = numbers_of(video, self.declared)
        self.numbers[slot] = [known.get(name, math.nan) for name in self.declared.numbers]
        self._append(slot, [_NOTHING, *keys])

    def drop(self, key: int) -> None:
        """Forget a video: the release's attributes hold again, if it has the video."""
        slot = self.slots.pop(key, None)
        if slot is not None:
            self.own_rows[slot] = -1
            self._append(slot, [_NOTHING])
            self._free.append(slot)

    def evaluate(self, expression: FilterExpression, part: slice) -> tuple[Int64Array, BoolArray]:
        """Return the slots with entries in a part, and for which of them a filter holds."""
        changed = np.zeros(self.count, np.bool_)
        changed[self._slots[part]] = True
        slots = changed.nonzero()[0]
        return slots, mask_of(expression, _Part(self, part)).take(slots)

    def part(self, since: int, entries: int) -> slice:
        """Return a part of about so many entries, at whose end none of a video's are cut off."""
        end = min(self.end, since + entries)
        last = self._slots[end - 1]
        if self._begin[last] < end:  # else those are of a change that another one followed
            end = max(end, int(self._begin[last] + self._size[last]))
        return slice(since, end)

    def labelled(self, text: str, part: slice) -> Int32Array:
        """Return the slots of videos with a label in a part of the entries."""
        found = (self._labels[part] == video_key(text)).nonzero()[0]
        slots: Int32Array = self._slots[part].take(found)
        return slots

    def _append(self, slot: int, labels: list[int]) -> None:
        begin, size = self._begin[slot], self._size[slot]
        self._labels[begin : begin + size] = _NOTHING
        if self.end + len(labels) > len(self._labels):
            self._make_room(len(labels))
        end = self.end + len(labels)
        self._labels[self.end : end] = labels
        self._slots[self.end : end] = slot
        self._begin[slot], self._size[slot] = self.end, len(labels)
        self.end = end

    def _make_room(self, wanted: int) -> None:
        """Drop the entries of what videos had before, and double the list unless that suffices."""
        kept = (self._labels[: self.end] != _NOTHING).nonzero()[0]
        size = len(self._labels)
        while size < 2 * (len(kept) + self.count + wanted):
            size *= 2
        # Each slot once, so that a filter evaluates those without a label too.
        every = np.arange(self.count, dtype=np.int32)
        slots = np.concatenate([every, self._slots.take(kept)])
        labels = np.concatenate([np.full(self.count, _NOTHING), self._labels.take(kept)])
        order = np.argsort(slots, kind="stable")
        self._labels, self._slots = np.zeros(size, np.int64), np.zeros(size, np.int32)
        self.end = len(order)
        self._labels[: self.end], self._slots[: self.end] = labels[order], slots[order]
        self._size[: self.count] = np.bincount(slots, minlength=self.count)
        self._begin[: self.count] = np.cumsum(self._size[: self.count]) - self._size[: self.count]
        self.rebuilt += 1


@dataclass(frozen=True)
class _Part:
    """The columns of one part of the entries; slots without any have no labels."""

    attributes: ChangedAttributes
    part: slice

    @property
    def count(self) -> int:
        return self.attributes.count

    def with_label(self, label: str) -> Int32Array:
        return self.attributes.labelled(label, self.part)

    def number(self, attribute: str) -> Float64Array:
        place = self.attributes.declared.numbers.index(attribute)
        return self.attributes.numbers[: self.count, place]


@dataclass
class ChangedVideos:
    """For which new and changed videos one filter holds, kept current from call to call."""

    held: BoolArray = field(default_factory=lambda: np.empty(0, np.bool_))
    """By slot, bool[count]."""
    allowed_rows: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    """Rows of the release's videos that it holds for now, and didn't before they changed."""
    forbidden_rows: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    """Rows of those that it held for, and no longer does."""
    _rebuilt: int = -1
    _position: int = 0

    def update(
        self,
        expression: FilterExpression,
        attributes: ChangedAttributes,
        held_before: Callable[[Int64Array], BoolArray],
    ) -> Iterator[None]:
        """Evaluate what changed since the last call; yield after each part of it.

        Args:
            expression: the filter.
            attributes: those of new and changed videos.
            held_before: returns for which rows of the release the filter holds by its attributes.
        """
        while self._rebuilt != attributes.rebuilt or self._position < attributes.end:
            if self._rebuilt != attributes.rebuilt:
                self._rebuilt, self._position = attributes.rebuilt, 0
            part = attributes.part(self._position, _PART_ENTRIES)
            slots, held = attributes.evaluate(expression, part)
            new = attributes.count - len(self.held)
            self.held = np.append(self.held, np.zeros(new, np.bool_))
            self.held[slots] = held
            self._position = part.stop
            if self._position == attributes.end:  # before others may ask
                own = attributes.own_rows[: attributes.count]
                changed = (own >= 0).nonzero()[0]
                rows, now = own.take(changed), self.held.take(changed)
                before = held_before(rows)
                self.allowed_rows, self.forbidden_rows = rows[now & ~before], rows[~now & before]
            yield
