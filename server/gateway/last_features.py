"""Cache of the features last read of each viewer, served while the online store fails."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from prometheus_client import Gauge

from vireo.v1.viewer_pb2 import ViewerFeatures

_ENTRY_BYTES = 1000
"""Memory of an entry besides its columns: objects, key and the cache's bookkeeping."""
_NUMBER_BYTES, _TEXT_BYTES = 8, 64

KEPT_BYTES = Gauge(
    "vireo_stale_features_bytes",
    "Memory of cached features, which are served while the online store fails.",
)


class _Entry(NamedTuple):
    viewer: ViewerFeatures
    size: int
    read_at: float


class LastFeatures:
    """A cache of bounded memory and age; whoever was read longest ago is evicted first."""

    def __init__(
        self, max_bytes: int, max_age: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start empty.

        Args:
            max_bytes: maximum memory of all entries.
            max_age: maximum age of an entry in seconds.
            clock: the current time in seconds.
        """
        self._max_bytes, self._max_age, self._clock = max_bytes, max_age, clock
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        """By data set and viewer, oldest first."""
        self.bytes = 0
        """Memory of all entries."""

    def keep(self, dataset: str, viewer_id: str, viewer: ViewerFeatures) -> None:
        """Cache what was read of a viewer.

        Unknown viewers are dropped: ids that nobody has would evict others.
        """
        key, now = (dataset, viewer_id), self._clock()
        self._drop(key)
        if viewer.watched_keys or viewer.hidden_keys or viewer.attributes:
            size = _size(viewer)
            if size <= self._max_bytes:
                self._entries[key] = _Entry(viewer, size, now)
                self.bytes += size
        while self._entries:
            key, oldest = next(iter(self._entries.items()))
            if self.bytes <= self._max_bytes and now - oldest.read_at < self._max_age:
                break
            self._drop(key)

    def find(self, dataset: str, viewer_id: str) -> ViewerFeatures | None:
        """Return what was last read of a viewer; None if nothing is cached."""
        entry = self._entries.get((dataset, viewer_id))
        if entry is None or self._clock() - entry.read_at >= self._max_age:
            return None
        return entry.viewer

    def _drop(self, key: tuple[str, str]) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self.bytes -= entry.size


def _size(viewer: ViewerFeatures) -> int:
    # protobuf rounds the room of a list up to a power of two.
    columns = viewer.history_keys, viewer.history_times, viewer.watched_keys
    hidden = viewer.hidden_keys, viewer.hidden_times
    numbers = sum([_NUMBER_BYTES << len(column).bit_length() for column in (*columns, *hidden)])
    return _ENTRY_BYTES + numbers + sum(_TEXT_BYTES + len(text) for text in viewer.attributes)
