"""What the log adds to a release of n videos: rows from n on, removals, and what is trending."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.features.keys import VideoRows
from vireo.server.features.looked_up import Column, Vectors, widened
from vireo.server.features.model_inputs import VideoTable
from vireo.server.recommend.catalogue.locales import OVERALL, normal_locale
from vireo.server.recommend.catalogue.placement import Placement
from vireo.server.recommend.filters.declared import Declared
from vireo.server.releases.manifest import Manifest

if TYPE_CHECKING:
    from vireo.server.recommend.catalogue.side import Follower, SideTable
    from vireo.server.recommend.catalogue.trends import Lists, Trends
    from vireo.v1.catalog_pb2 import Video


@dataclass(frozen=True)
class TrendingVideos:
    """Videos that are trending for a locale, the heaviest first."""

    rows: Int64Array
    """Rows in the release's tables of those that it has, int64[m]."""
    others: Int64Array
    """Keys of those that it doesn't have, int64[o]."""


@dataclass(frozen=True)
class ExtendedColumn:
    """A column of n rows, then those of `side`; valid until the side table's next change."""

    own: Column
    """An array, [n, d] or [n]."""
    side: npt.NDArray[Any]
    """[m, d] or [m]; in float32 if `own` is in float16."""
    count: int
    """n."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the release's column."""
        return self.own.shape

    def take(self, rows: Int64Array, axis: int) -> npt.NDArray[Any]:
        """Return the values at `rows`."""
        beyond = (rows >= self.count).nonzero()[0]
        if not len(beyond):
            return self.own.take(rows, axis=axis)
        mine = rows.copy()
        mine[beyond] = 0
        found = widened(self.own.take(mine, axis=axis))
        found[beyond] = self.side.take(rows.take(beyond) - self.count, axis=axis)
        return found


class LiveVideos:
    """The live part of one release. Use it from one event loop."""

    def __init__(self, table: SideTable, trends: Trends) -> None:
        """Read the side table of the release, and what is trending."""
        self.table, self.trends = table, trends
        self.count = len(table.known.vectors)
        """n."""
        self._lists: Lists = {}
        self._trending: dict[str, TrendingVideos] = {}

    @staticmethod
    def followed(
        follower: Follower,
        folder: Path,
        manifest: Manifest,
        rows: VideoRows,
        vectors: Vectors,
        *,
        videos: VideoTable | None = None,
        declared: Declared | None = None,
    ) -> LiveVideos:
        """Return the live part of a release in `folder`, which `follower` keeps current.

        Args:
            follower: follows the log.
            folder: the release's.
            manifest: the release's.
            rows: the release's rows.
            vectors: its vectors, float32[n, d] or float16[n, d].
            videos: its table, for ranking.
            declared: its attributes, for filters.
        """
        # Only with a log: it reads messages, for which benchmarks' environments lack stubs.
        from vireo.server.recommend.catalogue.side import KnownVideos, SideTable

        known = KnownVideos(
            rows,
            vectors,
            manifest.catalog_log_position,
            Placement.load(folder, manifest, len(vectors)),
            None if videos is None else np.asarray(videos.features),
            None if videos is None else np.asarray(videos.creators),
            declared,
        )
        table = SideTable(follower.overlay, known, ranked=videos is not None)
        return LiveVideos(follower.complete(table, folder), follower.trends)

    def trending(self, locale: str) -> TrendingVideos:
        """Return what is trending: in the locale, then in its language, then everywhere."""
        lists = self.trends.lists
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
            rows = self.table.known.rows.find(keys[first])
            found = TrendingVideos(rows[rows >= 0], keys[first][rows < 0])
            self._trending[names[0]] = found
        return found

    def extended(self, own: VideoTable) -> VideoTable:
        """Return the release's table with the live rows behind its own, until their next change."""
        side, extended = self.table, partial(ExtendedColumn, count=self.count)
        return VideoTable(
            extended(own.vectors, side.vectors),
            extended(own.features, side.features),
            extended(own.content, side.content),
            extended(own.creators, side.creators),
            extended(own.languages, side.languages) if own.languages is not None else None,
        )

    def find(self, keys: Int64Array, rows: Int64Array) -> Int64Array:
        """Return the rows of videos, those from n on included, -1 for unknown ones, int64[m].

        Args:
            keys: int64[m].
            rows: row of each in the release's table, -1 for unknown ones, int64[m].
        """
        # A video of the release has a row beside it only if its content changed.
        asked = np.arange(len(keys)) if self.table.changed else (rows < 0).nonzero()[0]
        if not len(asked):
            return rows
        beside = self.table.find(keys[asked].tolist())
        found = rows.copy()
        found[asked] = np.where(beside >= 0, beside + self.count, rows[asked])
        return found

    def unseen(self, keys: Int64Array, rows: Int64Array, limit: int) -> BoolArray:
        """Return which videos are new and had fewer impressions than `limit`, bool[m].

        Arguments are those of `find`, with its rows.
        """
        unseen: BoolArray = rows >= self.count
        for place in unseen.nonzero()[0].tolist():
            changed = self.table.own_rows[rows[place] - self.count] >= 0
            shown = self.trends.impressions(int(keys[place]))
            unseen[place] = not changed and shown < limit
        return unseen

    def video(self, row: int) -> Video:
        """Return the video of a row from n on."""
        return self.table.video(row - self.count)
