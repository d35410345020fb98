"""Video keys: the 64-bit hash that stands for a video id on the inner hops."""

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
