"""The attributes of a release's videos: an inverted index of labels, and columns of numbers."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from vireo.server.arrays import BoolArray, Float64Array, Int32Array, Int64Array
from vireo.server.recommend.filters.declared import Declared
from vireo.server.recommend.filters.expression import FilterExpression
from vireo.server.recommend.filters.mask import mask_of
from vireo.server.releases import layout
from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.tables import Texts, read_mapped_texts, read_rows, read_table

FILES = layout.ATTRIBUTE_TABLES


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

    def mask(self, expression: FilterExpression) -> BoolArray:
        """Return for which videos a filter of declared attributes holds, bool[n]."""
        return mask_of(expression, self)

    def attributes_of(self, row: int) -> tuple[set[str], dict[str, float]]:
        """Return a video's labels, each "attribute=value", and its numbers; reads all labels."""
        places = (self.rows == row).nonzero()[0]
        labels = np.searchsorted(self.offsets, places, side="right") - 1
        numbers = dict(zip(self.declared.numbers, self.numbers[row].tolist(), strict=True))
        return {self.labels[label] for label in labels.tolist()}, numbers

    def with_label(self, label: str) -> Int32Array:
        """Return the rows of the videos that have a label; see `AttributeColumns`."""
        place = bisect_left(self.labels, label)
        if place == len(self.labels) or self.labels[place] != label:
            return self.rows[:0]
        return self.rows[self.offsets[place] : self.offsets[place + 1]]

    def number(self, attribute: str) -> Float64Array:
        """Return the number of each video; see `AttributeColumns`."""
        return self.numbers[:, self.declared.numbers.index(attribute)]
