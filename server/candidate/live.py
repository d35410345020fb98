"""What the log adds to a release: removals, videos beside it, and what is trending."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vireo.server.arrays import Int64Array
from vireo.server.features.video_rows import VideoRows
from vireo.server.live.locales import OVERALL, normal_locale

if TYPE_CHECKING:
    from vireo.server.live.side import SideTable
    from vireo.server.live.trends import Lists, Trends


@dataclass(frozen=True)
class TrendingVideos:
    """Videos that are trending for a locale, the heaviest first."""

    rows: Int64Array
    """Rows in the release's tables of those that it has, int64[m]."""
    others: Int64Array
    """Keys of those that it doesn't have, int64[o]."""


class LiveVideos:
    """The live part of one release. Use it from one event loop."""

    def __init__(self, table: SideTable, trends: Trends, rows: VideoRows) -> None:
        """Read the side table of the release, what is trending, and the release's rows."""
        self.table = table
        self._trends, self._rows = trends, rows
        self._lists: Lists = {}
        self._trending: dict[str, TrendingVideos] = {}

    def trending(self, locale: str) -> TrendingVideos:
        """Return what is trending: in the locale, then in its language, then everywhere."""
        lists = self._trends.lists
        if lists is not self._lists:
            self._lists, self._trending = lists, {}
        locale = normal_locale(locale)
        names = [name for name in (locale, locale.partition("-")[0], OVERALL) if name in lists]
        if not names:
            return TrendingVideos(np.empty(0, np.int64), np.empty(0, np.int64))
        found = self._trending.get(names[0])
        if found is None:
            keys = np.concatenate([lists[name] for name in names])
            first = np.sort(np.unique(keys, return_index=True)[1])
            rows = self._rows.find(keys[first])
            found = TrendingVideos(rows[rows >= 0], keys[first][rows < 0])
            self._trending[names[0]] = found
        return found
