"""The ranking service's part of a release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vireo.server.arrays import Int64Array
from vireo.server.features.keys import VideoRows
from vireo.server.features.model_inputs import VIDEO_FEATURES, VideoTable
from vireo.server.models.golden import replay
from vireo.server.models.model import Model
from vireo.server.models.signature import ranker_signature
from vireo.server.recommend.catalogue import placement
from vireo.server.recommend.catalogue.live_videos import LiveVideos
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.tables import (
    VECTOR_TYPES,
    Texts,
    read_ids,
    read_mapped_texts,
    read_table,
    read_vocabulary,
)

if TYPE_CHECKING:
    from vireo.server.recommend.catalogue.side import Follower

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
    def load(folder: Path, live: Follower | None = None) -> RankingRelease:
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
            beside = LiveVideos.followed(live, folder, manifest, rows, vectors, videos=table)
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
        return rows if live is None or not live.table.places else live.find(keys, rows)

    @property
    def videos(self) -> VideoTable:
        """The table, with the videos beside it until the catalogue's next change."""
        live = self.live
        return self.table if live is None or not live.table.places else live.extended(self.table)

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
        changed = self.live.table.changed_video(self.ids[row])
        return self.titles[row] if changed is None else changed.title or changed.video_id

    def replay_goldens(self) -> None:
        """Raise ReleaseError unless its models reproduce their outputs of training."""
        replay(self.ranker, self.folder / layout.GOLDEN_RANKER)
        if self.live is not None:
            self.live.table.replay_goldens()
