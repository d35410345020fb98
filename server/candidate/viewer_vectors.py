"""LRU cache of viewers' vectors, so that a viewer's next page doesn't run the viewer tower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock

import numpy as np
import xxhash
from cachetools import LRUCache
from prometheus_client import Counter

from server.arrays import Float32Array, Int64Array

LOOKUPS = Counter(
    "vireo_viewer_vector_lookups",
    "Lookups in the cache of viewers' vectors; the viewer tower runs for each miss.",
    ["result"],
)
_HIT, _MISS = LOOKUPS.labels("hit"), LOOKUPS.labels("miss")


class ViewerVectors:
    """LRU cache of one release's viewer vectors, keyed by the viewer tower's inputs.

    Entries never become stale: a new watch, a changed profile, or a last watch that is twice as
    long ago changes the inputs, and with them the key. Safe to use from several threads.
    """

    def __init__(self, max_vectors: int) -> None:
        """Start empty; with `max_vectors` 0 nothing is cached."""
        self._vectors: LRUCache[bytes, Float32Array] = LRUCache(max_vectors)
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors that are cached."""
        with self._lock:
            some = next(iter(self._vectors.values()), None)
            return 0 if some is None else len(self._vectors) * some.nbytes

    def of(
        self,
        inputs: Mapping[str, Int64Array],
        made: Callable[[Mapping[str, Int64Array]], Float32Array],
    ) -> Float32Array:
        """Return the vector for a viewer's inputs, float32[d]; call `made` on a miss."""
        if not self._vectors.maxsize:
            return made(inputs)
        digest = xxhash.xxh3_128()
        for array in inputs.values():
            digest.update(np.array(array.shape).tobytes() + array.tobytes())
        key = digest.digest()
        with self._lock:
            kept = self._vectors.get(key)
        if kept is not None:
            _HIT.inc()
            return kept
        vector = made(inputs)
        vector.setflags(write=False)
        with self._lock:
            self._vectors[key] = vector
        _MISS.inc()
        return vector
