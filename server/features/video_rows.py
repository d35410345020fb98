"""Finds the rows of video keys in a release's tables."""

from __future__ import annotations

import numpy as np

from server.arrays import Int64Array

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio, odd: its multiples spread over all upper bits (Knuth, The Art of
Computer Programming, vol. 3, section 6.4)."""
_ROOM = 2
"""The table has two to four places a key, so that few keys collide."""
_NEXT = np.arange(1, 6)
"""Places probed at once for keys that aren't in their first; few keys need a second round."""


class VideoRows:
    """Row of each video key: a hash table with linear probing, looked up for many keys at once.

    For 500 of a million keys a binary search takes four times as long: it misses the processor's
    caches some ten times a key.
    """

    def __init__(self, keys: Int64Array) -> None:
        """Build the table from the key of each row, int64[n], all different; it isn't copied."""
        bits = max(1, len(keys) - 1).bit_length() + _ROOM - 1
        self._keys = keys
        self._shift = np.uint64(64 - bits)
        self._last = (1 << bits) - 1
        self._rows = np.full(1 << bits, -1, np.int32)
        rows, places = np.arange(len(keys), dtype=np.int32), self._place(keys)
        while len(rows):
            free = self._rows[places] < 0
            self._rows[places[free]] = rows[free]  # if several want a place, the last gets it
            left = self._rows[places] != rows
            rows, places = rows[left], (places[left] + 1) & self._last

    def find(self, keys: Int64Array) -> Int64Array:
        """Return the row of each key, int64[m]; -1 for a key that the release doesn't know."""
        if not len(self._keys):
            return np.full(len(keys), -1, np.int64)
        places = self._place(keys)
        rows = self._rows[places].astype(np.int64)
        left = ((rows >= 0) & (self._keys[rows] != keys)).nonzero()[0]
        while left.size:
            found = self._rows[(places[left, None] + _NEXT) & self._last]
            ends = (found < 0) | (self._keys[found] == keys[left, None])
            first, each = ends.argmax(1), np.arange(left.size)
            rows[left] = found[each, first]
            left = left[~ends[each, first]]
            places[left] += len(_NEXT)
        return rows

    def _place(self, keys: Int64Array) -> Int64Array:
        """Return the first place of each key, int64[m]."""
        return ((keys.view(np.uint64) * _MULTIPLIER) >> self._shift).view(np.int64)
