"""Cache of the features last read of each viewer, served while the online store fails."""

from __future__ import annotations

import time
from collections.abc import Callable

from cachetools import Cache, TTLCache
from prometheus_client import Gauge

from vireo.v1.viewer_pb2 import ViewerFeatures

_ENTRY_BYTES = 1000
"""Memory of an entry besides its columns: objects, key and the cache's bookkeeping."""
_NUMBER_BYTES, _TEXT_BYTES = 8, 64

KEPT_BYTES = Gauge(
    "vireo_stale_features_bytes",
    "Memory of cached features, which are served while the online store fails.",
)


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
        self._entries: TTLCache[tuple[str, str], ViewerFeatures] = TTLCache(
            max_bytes, max_age, clock, _size
        )
        """By data set and viewer."""

    @property
    def bytes(self) -> int:
        """Memory of all entries; in any thread, since nothing is removed, as TTLCache would."""
        return int(Cache.currsize.fget(self._entries))  # type: ignore[attr-defined]

    def keep(self, dataset: str, viewer_id: str, viewer: ViewerFeatures) -> None:
        """Cache what was read of a viewer.

        Unknown viewers are dropped: ids that nobody has would evict others.
        """
        key = dataset, viewer_id
        if viewer.watched_keys or viewer.hidden_keys or viewer.attributes:
            try:
                self._entries[key] = viewer
            except ValueError:  # it is larger than the cache
                self._entries.pop(key, None)
        else:
            self._entries.pop(key, None)

    def find(self, dataset: str, viewer_id: str) -> ViewerFeatures | None:
        """Return what was last read of a viewer; None if nothing is cached."""
        return self._entries.get((dataset, viewer_id))


def _size(viewer: ViewerFeatures) -> int:
    # protobuf rounds the room of a list up to a power of two.
    columns = viewer.history_keys, viewer.history_times, viewer.watched_keys
    hidden = viewer.hidden_keys, viewer.hidden_times
    numbers = sum([_NUMBER_BYTES << len(column).bit_length() for column in (*columns, *hidden)])
    return _ENTRY_BYTES + numbers + sum(_TEXT_BYTES + len(text) for text in viewer.attributes)
