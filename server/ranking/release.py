"""The ranking service's part of a release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.features.looked_up import Column, widened
from vireo.server.features.ranking_inputs import VIDEO_FEATURES, VideoTable
from vireo.server.features.video_rows import VideoRows
from vireo.server.inference.golden import replay
from vireo.server.inference.model import Model
from vireo.server.inference.signature import ranker_signature
from vireo.server.live import placement
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.tables import VECTOR_TYPES, read_ids, read_table, read_vocabulary
from vireo.server.releases.texts import Texts, read_mapped_texts

if TYPE_CHECKING:
    from vireo.server.live.live import Live
    from vireo.server.live.side import SideTable
    from vireo.server.live.trends import Trends
    from vireo.v1.catalog_pb2 import Video

FILES = (
    layout.RANKER,
    layout.GOLDEN_RANKER,
    layout.VIDEO_KEYS,
    layout.VIDEO_IDS,
    layout.VIDEO_TITLES,
    layout.VIDEO_VECTORS,
    layout.CONTENT_VECTORS,
    layout.VIDEO_FEATURE_TABLE,
    layout.VOCABULARY,
    layout.CREATORS,
    layout.LANGUAGES,
    layout.TAKEDOWNS,
    *placement.FILES,
)
"""The files of a release that the ranking service needs."""


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
        extended = partial(ExtendedColumn, count=self.count)
        return VideoTable(
            extended(own.vectors, side.vectors),
            extended(own.features, side.features),
            extended(own.content, side.content),
            extended(own.creators, side.creators),
            extended(own.languages, side.languages) if own.languages is not None else None,
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


@dataclass(frozen=True)
class RankingRelease:
    """One release's ranking model and catalogue; n videos."""

    folder: Path
    manifest: Manifest
    ranker: Model
    table: VideoTable
    ids: Texts
    titles: Texts
    vocabulary: Mapping[str, int]
    rows: VideoRows
    live: LiveVideos | None = None
    """What the log adds; None without one."""

    @staticmethod
    def load(folder: Path, live: Live | None = None) -> RankingRelease:
        """Load the release in `folder`: its manifest and FILES except goldens.

        Digests aren't checked here but by the cache, when it returns the folder. `live` is what is
        followed of the log.

        Raises:
            ReleaseError: a file is missing or invalid; the message names it.
        """
        manifest = Manifest.read(folder)
        size = manifest.feature_schema.vector_size
        keys: Int64Array = read_table(folder, layout.VIDEO_KEYS, np.int64, (None,))
        count = len(keys)
        vectors = read_table(folder, layout.VIDEO_VECTORS, VECTOR_TYPES, (count, size))
        features = read_table(
            folder, layout.VIDEO_FEATURE_TABLE, np.float32, (count, len(VIDEO_FEATURES))
        )
        content = read_table(folder, layout.CONTENT_VECTORS, VECTOR_TYPES, (count, None))
        creators = read_table(folder, layout.CREATORS, np.int64, (count,))
        schema, languages = manifest.feature_schema, None
        if schema.languages:
            languages = read_table(folder, layout.LANGUAGES, np.int16, (count,))
        signature = ranker_signature(
            size, len(schema.context_features), len(schema.match_features), len(schema.tasks)
        )
        table = VideoTable(vectors, features, content, creators, languages)
        rows = VideoRows(keys)
        beside = None
        if live is not None:
            # Only with a log: it reads messages, for which benchmarks' environments lack stubs.
            from vireo.server.live.side import KnownVideos, SideTable

            places = placement.Placement.load(folder, manifest, count)
            merged = manifest.catalog_log_position
            known = KnownVideos(rows, vectors, merged, places, features, creators)
            side = live.complete(SideTable(live.overlay, known, ranked=True), folder)
            beside = LiveVideos(side, live.trends, table, count)
        return RankingRelease(
            folder=folder,
            manifest=manifest,
            ranker=Model(folder / layout.RANKER, signature),
            table=table,
            ids=read_ids(folder, layout.VIDEO_IDS, keys),
            titles=read_mapped_texts(folder / layout.VIDEO_TITLES, count),
            vocabulary=read_vocabulary(folder, layout.VOCABULARY),
            rows=rows,
            live=beside,
        )

    @property
    def context(self) -> tuple[str, ...]:
        """Names of the context features that the ranker reads."""
        return tuple(self.manifest.feature_schema.context_features)

    def find(self, keys: Int64Array) -> Int64Array:
        """Return the row of each video in `videos`, int64[m]; -1 for unknown ones."""
        rows, live = self.rows.find(keys), self.live
        return rows if live is None or not live.side.places else live.find(keys, rows)

    @property
    def videos(self) -> VideoTable:
        """The table, with the videos beside it until the catalogue's next change."""
        live = self.live
        return self.table if live is None or not live.side.places else live.table

    def video_id(self, row: int) -> str:
        """Return the id of a row of `videos`."""
        if self.live is not None and row >= len(self.ids):
            return self.live.video(row).video_id
        return self.ids[row]

    def title(self, row: int) -> str:
        """Return the title of a row of `videos`."""
        if self.live is None:
            return self.titles[row]
        if row >= len(self.ids):
            video = self.live.video(row)
            return video.title or video.video_id
        return self.live.title(self.ids[row], self.titles[row])

    def replay_goldens(self) -> None:
        """Raise ReleaseError unless its models reproduce their outputs of training."""
        replay(self.ranker, self.folder / layout.GOLDEN_RANKER)
        if self.live is not None:
            self.live.side.replay_goldens()
