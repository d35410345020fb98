"""The vectors of the viewers who were asked for last, so that their next page takes no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock

import numpy as np
import numpy.typing as npt
import xxhash
from cachetools import LRUCache
from prometheus_client import Counter

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

VECTORS = Counter(
    "vireo_viewer_vectors", "Vectors of viewers, by whether the viewer tower ran for them.", ["how"]
)
_KEPT, _MADE = VECTORS.labels("kept"), VECTORS.labels("made")


class ViewerVectors:
    """Vectors of one release by what its viewer tower reads; used least recently goes first.

    A viewer who has watched something since, whose profile has changed, or whose last watch has
    become twice as long ago, has other inputs, so what is kept never needs to be forgotten. Safe to
    use from several threads.
    """

    def __init__(self, most: int) -> None:
        """Takes how many to keep; 0 keeps none."""
        self._vectors: LRUCache[bytes, Float32Array] = LRUCache(most)
        self._lock = Lock()

    def of(
        self,
        inputs: Mapping[str, Int64Array],
        made: Callable[[Mapping[str, Int64Array]], Float32Array],
    ) -> Float32Array:
        """The vector for a viewer's inputs, float32[d], by `made` where it isn't kept."""
        if not self._vectors.maxsize:
            return made(inputs)
        digest = xxhash.xxh3_128()
        for array in inputs.values():
            digest.update(np.array(array.shape).tobytes() + array.tobytes())
        key = digest.digest()
        with self._lock:
            kept = self._vectors.get(key)
        if kept is not None:
            _KEPT.inc()
            return kept
        vector = made(inputs)
        vector.setflags(write=False)
        with self._lock:
            self._vectors[key] = vector
        _MADE.inc()
        return vector
