"""A viewer's features, as models and pipelines read them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from vireo.server.arrays import Int64Array
from vireo.server.features.context import UNKNOWN, ContextIds


def _no_keys() -> Int64Array:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class ViewerFeatures:
    """One viewer's features at one moment; by default those of an unknown viewer."""

    history_keys: Int64Array = field(default_factory=_no_keys)
    """Last watched videos, oldest first, int64[h]."""
    history_times: Int64Array = field(default_factory=_no_keys)
    """When each was watched, Unix seconds, int64[h]."""
    watched_keys: Int64Array = field(default_factory=_no_keys)
    """All watched videos, in any order, int64[w]."""
    attributes: tuple[str, ...] = ()
    """Profile attributes as "name=value"."""
    watch_count: int = 0
    """Number of videos that the viewer has watched."""
    like_count: int = 0
    """Number of them that the viewer liked."""
    hidden_keys: Int64Array = field(default_factory=_no_keys)
    """Videos that the viewer has hidden, int64[k]."""
    hidden_times: Int64Array = field(default_factory=_no_keys)
    """When each was hidden, Unix seconds, int64[k]."""
    shown_keys: Int64Array = field(default_factory=_no_keys)
    """Videos that were shown, once for each minute in which one was, int64[s]."""
    shown_times: Int64Array = field(default_factory=_no_keys)
    """When each was shown, Unix seconds, int64[s]."""
    followed_keys: Int64Array = field(default_factory=_no_keys)
    """Keys of the creators that the viewer follows, the last one last, int64[c]."""
    asked_at: int = 0
    """Time of the request, Unix seconds; 0 for right after the last watch."""
    context: ContextIds = UNKNOWN
    """Context of the request."""

    def playing(self, seed_key: int | None) -> ViewerFeatures:
        """Return these features with the video that is playing, if any, as the last one watched.

        If it already is the last one of the history, that is this play: watched twice, it would
        lead to worse candidates. Else it begins at the time of the request.
        """
        if seed_key is None:
            return self
        seen = replace(self, watched_keys=np.append(self.watched_keys, np.int64(seed_key)))
        if len(self.history_keys) and self.history_keys[-1] == seed_key:
            return seen
        last = self.history_times[-1] if len(self.history_times) else 0
        return replace(
            seen,
            history_keys=np.append(self.history_keys, np.int64(seed_key)),
            history_times=np.append(self.history_times, np.int64(self.asked_at or last)),
        )
