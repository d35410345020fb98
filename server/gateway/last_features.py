"""The features that were read last of each viewer, for when the store can't be read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from cachetools import TTLCache
from prometheus_client import Gauge

from server.features.viewer import ViewerFeatures

_ENTRY_BYTES = 1000
"""What an entry takes besides its columns: the objects, the key, and the cache's own."""

KEPT_BYTES = Gauge(
    "vireo_last_features_bytes", "Memory of the features that are kept for when the store fails."
)


class LastFeatures:
    """A cache of bounded memory and age; what was used least recently goes first."""

    def __init__(
        self, most_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Takes how much memory all entries may have, and how old each may become."""
        self._viewers: TTLCache[tuple[str, str], ViewerFeatures, float] = TTLCache(
            most_bytes, seconds, clock, _size
        )

    def keep(self, dataset: str, viewer_id: str, viewer: ViewerFeatures) -> None:
        """Takes up what was read just now of a viewer.

        A viewer of whom nothing is known is forgotten: ids that nobody has would take the room
        of others.
        """
        key = dataset, viewer_id
        if _unknown(viewer) or _size(viewer) > self._viewers.maxsize:
            self._viewers.pop(key, None)
        else:
            self._viewers[key] = viewer
        KEPT_BYTES.set(self._viewers.currsize)

    def find(self, dataset: str, viewer_id: str) -> ViewerFeatures | None:
        """What was read last of a viewer; None where nothing is kept."""
        return self._viewers.get((dataset, viewer_id))


def _unknown(viewer: ViewerFeatures) -> bool:
    return not (len(viewer.history_keys) or len(viewer.watched_keys) or viewer.attributes)


def _size(viewer: ViewerFeatures) -> int:
    columns = viewer.history_keys, viewer.history_times, viewer.watched_keys
    texts = sum(map(sys.getsizeof, viewer.attributes))
    return _ENTRY_BYTES + sum(column.nbytes for column in columns) + texts
