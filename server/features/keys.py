"""Video keys: the 64-bit hash that stands for a video id on the inner hops, and its row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from vireo.server.arrays import Int64Array


def video_key(video_id: str) -> int:
    """Return the signed 64-bit XXH3 of the id's UTF-8 bytes: the same in every release and pod."""
    unsigned = xxhash.xxh3_64_intdigest(video_id.encode())
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned


def video_keys(video_ids: Sequence[str]) -> Int64Array:
    """Return the key of each id, int64[n]."""
    digest = xxhash.xxh3_64_intdigest
    unsigned = np.array([digest(video_id.encode()) for video_id in video_ids], np.uint64)
    return unsigned.view(np.int64)


class KeyCollisionError(ValueError):
    """Two video ids of one catalogue have the same key."""


def unique_video_keys(video_ids: Sequence[str]) -> Int64Array:
    """Return the key of each id of a catalogue, int64[n].

    Raises:
        KeyCollisionError: two ids share a key (or are equal); both are named.
    """
    keys = video_keys(video_ids)
    order = np.argsort(keys, kind="stable")
    twins = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(twins):
        first, second = (video_ids[order[twins[0] + step]] for step in (0, 1))
        raise KeyCollisionError(
            f"videos {first!r} and {second!r} have the same key; rename one of them"
        )
    return keys


_MULTIPLIER = 0x9E3779B97F4A7C15
"""2**64 over the golden ratio, odd: its multiples spread over all upper bits (Knuth, The Art of
Computer Programming, vol. 3, section 6.4). Its powers, also odd, give further places."""
_ROOM = 3
"""The table has four to eight places a key, so that almost every second place is free."""
_MAX_ROUNDS = 200
"""A million keys need 16."""
_ATTEMPTS = 8
"""Choices of second places; 1 in 2,000 small catalogues needs more than one."""


class VideoRows:
    """Row of each video key: a cuckoo hash table, looked up for many keys at once.

    Each key is in one of two places, so a lookup is a few operations on whole arrays and no loop.
    For 500 of a million keys a binary search takes four times as long: it misses the processor's
    caches some ten times a key.
    """

    def __init__(self, keys: Int64Array) -> None:
        """Build the table from the key of each row, int64[n]; it isn't copied.

        Raises:
            KeyCollisionError: more than two rows have the same key.
        """
        bits = max(1, len(keys) - 1).bit_length() + _ROOM - 1
        self._keys = keys
        self._shift = np.uint64(64 - bits)
        self._rows = np.full(1 << bits, -1, np.int32)
        for exponent in range(2, 2 + _ATTEMPTS):
            powers = (_MULTIPLIER, pow(_MULTIPLIER, exponent, 1 << 64))
            self._multipliers = np.array(powers, np.uint64)[:, None]
            if self._fill():
                return
        raise KeyCollisionError("more than two rows of a release have the same key")

    def find(self, keys: Int64Array) -> Int64Array:
        """Return the row of each key, int64[m]; -1 for a key that the release doesn't know."""
        if not len(self._keys):
            return np.full(len(keys), -1, np.int64)
        first, second = self._rows.take(self._places(keys))
        rows = np.where(self._keys.take(first) == keys, first, second)
        return np.where(self._keys.take(rows) == keys, rows, np.int64(-1))

    def _fill(self) -> bool:
        """Put each row in one of its places; return False if that fails with these multipliers."""
        places = self._places(self._keys)
        chosen = np.zeros(len(self._keys), np.int8)
        self._rows.fill(-1)
        moving = np.arange(len(self._keys), dtype=np.int32)
        for _ in range(_MAX_ROUNDS):
            if not len(moving):
                return True
            wanted = places[chosen[moving], moving]
            driven_out = self._rows[wanted]
            self._rows[wanted] = moving  # if several want a place, the last gets it
            moving = np.concatenate([moving, driven_out[driven_out >= 0]])
            moving = np.unique(moving[self._rows[places[chosen[moving], moving]] != moving])
            chosen[moving] ^= 1
        return False

    def _places(self, keys: Int64Array) -> Int64Array:
        """Return both places of each key, int64[2, m]."""
        return ((keys.view(np.uint64) * self._multipliers) >> self._shift).view(np.int64)
