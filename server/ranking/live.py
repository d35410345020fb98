"""What the log adds to a release: videos beside it, and how often they were seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from server.arrays import BoolArray, Int64Array
from server.features.looked_up import Column, widened
from server.features.ranking_inputs import VideoTable

if TYPE_CHECKING:
    from vireo.v1.catalog_pb2 import Video

    from server.live.side import SideTable
    from server.live.trends import Trends


@dataclass(frozen=True)
class Beside:
    """Row n + r is row r of `side`, for n rows of `own`; until the side table's next change."""

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


@dataclass(frozen=True)
class LiveVideos:
    """The live part of one release of n videos. Use it from one event loop."""

    side: SideTable
    trends: Trends
    own: VideoTable
    """The release's table."""
    count: int
    """n."""

    @property
    def table(self) -> VideoTable:
        """The release's table with the side table beside it, until its next change."""
        own, side = self.own, self.side
        return VideoTable(
            Beside(own.vectors, side.vectors, self.count),
            Beside(own.features, side.features, self.count),
            Beside(own.content, side.content, self.count),
            Beside(own.creators, side.creators, self.count) if own.creators is not None else None,
            Beside(own.languages, side.languages, self.count)
            if own.languages is not None
            else None,
        )

    def find(self, keys: Int64Array, rows: Int64Array) -> Int64Array:
        """Return the rows of videos in `table`, -1 for unknown ones, int64[m].

        Args:
            keys: int64[m].
            rows: row of each in the release's table, -1 for unknown ones, int64[m].
        """
        # A video of the release has a row beside it only if its content changed.
        asked = np.arange(len(keys)) if self.side.changed else (rows < 0).nonzero()[0]
        if not len(asked):
            return rows
        beside = self.side.find(keys[asked].tolist())
        found = rows.copy()
        found[asked] = np.where(beside >= 0, beside + self.count, rows[asked])
        return found

    def unseen(self, keys: Int64Array, rows: Int64Array, limit: int) -> BoolArray:
        """Return which videos are new and had fewer impressions than `limit`, bool[m].

        Arguments are those of `find`, with its rows.
        """
        unseen: BoolArray = rows >= self.count
        for place in unseen.nonzero()[0].tolist():
            changed = self.side.own_rows[rows[place] - self.count] >= 0
            shown = self.trends.impressions(int(keys[place]))
            unseen[place] = not changed and shown < limit
        return unseen

    def video(self, row: int) -> Video:
        """Return the video of a row of `table` beyond the release's."""
        return self.side.video(row - self.count)

    def title(self, video_id: str, title: str) -> str:
        """Return the title of a video of the release, as it is now."""
        changed = self.side.changed_video(video_id)
        return title if changed is None else changed.title or video_id
