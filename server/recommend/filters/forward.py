"""Labels by video: the transpose of the inverted index, made for an attribute on its first use.

It isn't made with the release: the attributes of a million videos together can take 60 MB, and
only those that caps count are ever read.
"""

from __future__ import annotations

from bisect import bisect_left
from threading import Lock

import numpy as np

from vireo.server.arrays import Int32Array, Int64Array
from vireo.server.recommend.filters.declared import label
from vireo.server.recommend.filters.table import AttributeTable


class ForwardIndex:
    """Labels by video, of the attributes that were asked for. Safe to use from several threads.

    An attribute takes 8 bytes a video and 4 a label, from the first time that it is asked for.
    """

    def __init__(self, table: AttributeTable) -> None:
        """Start with no attribute."""
        self._table = table
        self._made: dict[str, tuple[Int64Array, Int32Array]] = {}
        self._lock = Lock()

    def place(self, text: str) -> int:
        """Return the number of a label, "attribute=value"; -1 if no video of the release has it."""
        labels = self._table.labels
        place = bisect_left(labels, text)
        return place if place < len(labels) and labels[place] == text else -1

    def has(self, attribute: str) -> bool:
        """Return whether an attribute is made, so that `labels_of` takes no time to make it."""
        return attribute in self._made

    def make(self, attribute: str) -> tuple[Int64Array, Int32Array]:
        """Return an attribute's labels, made if they aren't yet: 40 ms for a million videos."""
        with self._lock:
            made = self._made.get(attribute)
            if made is None:
                made = self._made[attribute] = self._transposed(attribute)
        return made

    def labels_of(self, rows: Int64Array, attribute: str) -> list[Int32Array]:
        """Return the numbers of the labels that each of some rows has of an attribute."""
        # Without the lock, which another thread holds for as long as it makes another attribute.
        offsets, labels = self._made.get(attribute) or self.make(attribute)
        begins, ends = offsets.take(rows).tolist(), offsets.take(rows + 1).tolist()
        return [labels[begin:end] for begin, end in zip(begins, ends, strict=True)]

    def _transposed(self, attribute: str) -> tuple[Int64Array, Int32Array]:
        """Return where each video's labels begin, int64[n + 1], and the labels, int32[t]."""
        table = self._table
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
