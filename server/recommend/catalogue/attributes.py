"""Attributes of the catalogue's new and changed videos, by which filters judge them at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vireo.server.arrays import BoolArray, Float64Array, Int64Array
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
from vireo.server.recommend.filters.table import mask_of

if TYPE_CHECKING:
    from vireo.v1.catalog_pb2 import Video


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
        columns = _Columns(
            self.declared,
            self.numbers.take(places, axis=0),
            np.frombuffer(b"".join(labels), np.int64),
            np.repeat(np.arange(len(labels)), [len(each) // 8 for each in labels]),
        )
        return mask_of(expression, columns)


@dataclass(frozen=True)
class _Columns:
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
