"""The ranking service's part of a release, and a query to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.features.keys import VideoRows
from vireo.server.features.model_inputs import VIDEO_FEATURES, VideoTable
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.models.model import Model, replay
from vireo.server.models.signature import ranker_signature
from vireo.server.recommend.catalogue import placement
from vireo.server.recommend.catalogue.placement import KnownVideos, Placement
from vireo.server.recommend.page import Caps
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
    from vireo.server.recommend.catalogue.live_videos import Follower, LiveVideos

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
        signature = ranker_signature(schema)
        table = VideoTable(vectors, features, content, creators, languages)
        rows = VideoRows(keys)
        live_videos = None
        if live is not None:
            place = Placement.load(folder, manifest, count)
            position = manifest.catalog_log_position
            known = KnownVideos(rows, vectors, position, place, features, creators)
            live_videos = live.live_videos(known, folder)
        return RankingRelease(
            folder=folder,
            manifest=manifest,
            ranker=Model(folder / layout.RANKER, signature),
            table=table,
            ids=read_ids(folder, layout.VIDEO_IDS, keys),
            titles=read_mapped_texts(folder / layout.VIDEO_TITLES, count),
            vocabulary=read_vocabulary(folder, layout.VOCABULARY),
            rows=rows,
            live=live_videos,
        )

    def find(self, keys: Int64Array) -> Int64Array:
        """Return the row of each video in `videos`, int64[m]; -1 for unknown ones."""
        rows = self.rows.find(keys)
        return rows if self.live is None else self.live.find(keys, rows, changed=True)

    @property
    def videos(self) -> VideoTable:
        """The table with the live videos, until their next change."""
        live = self.live
        return self.table if live is None or not live.count else live.table(self.table)

    def video_id(self, row: int) -> str:
        """Return the id of a row of `videos`."""
        if self.live is not None and row >= self.live.first:
            return self.live.video(row).video_id
        return self.ids[row]

    def title(self, row: int) -> str:
        """Return the title of a row of `videos`."""
        if self.live is None:
            return self.titles[row]
        if row >= self.live.first:
            video = self.live.video(row)
            return video.title or video.video_id
        changed = self.live.changed_video(self.ids[row])
        return self.titles[row] if changed is None else changed.title or changed.video_id

    def replay_goldens(self) -> None:
        """Raise ReleaseError unless its models reproduce their outputs of training."""
        replay(self.ranker, self.folder / layout.GOLDEN_RANKER)
        if self.live is not None:
            self.live.known.placement.replay_goldens()


@dataclass(frozen=True)
class PageRules:
    """What the site's rules ask of a page of n candidates."""

    factors: Float32Array | None = None
    """Factor of each candidate's score, float32[n]; None if all are 1."""
    pins: Mapping[int, int] = field(default_factory=dict)
    """Key of the video that each position is for, from 0."""
    caps: Caps = ()
    """Maximum videos with the same label, and the labels of the candidate at a place."""
    shown: Sequence[Sequence[int]] = ()
    """For each cap the labels of the pages before; empty if none is counted."""
    new_share: float | None = None
    """Share of the positions that new videos get; None for the usual one."""


@dataclass(frozen=True)
class RankingQuery:
    """Candidates to rank, in columns of equal length."""

    viewer: ViewerFeatures
    keys: Int64Array
    """int64[n]."""
    scores: Mapping[str, Float32Array]
    """Each of `signals.SCORES` as retrieved, float32[n]."""
    source_masks: npt.NDArray[np.uint32]
    """uint32[n]."""
    page_size: int
    """Number of candidates to return."""
    seed_key: int | None = None
    """The video that is playing; None on HOME."""
    rules: PageRules | None = None
    """What the site's rules ask; None if none applies."""
    recorded: int = 0
    """Number of candidates to record; 0 for no record."""


@dataclass(frozen=True)
class Ranking:
    """One query against one release."""

    release: RankingRelease
    query: RankingQuery
    viewer: ViewerFeatures
    """The query's viewer, with the seed as the last video watched."""
    rows: Int64Array
    """Rows of the query's keys in `table`, int64[n]; -1 for unknown ones."""
    history_rows: Int64Array
    """Rows of the known videos of the viewer's history, oldest first, int64[h]."""
    table: VideoTable
    """The release's table, with the videos beside it if there are any."""

    @staticmethod
    def of(release: RankingRelease, query: RankingQuery) -> Ranking:
        """Prepare `query`."""
        viewer = query.viewer.playing(query.seed_key)
        found = release.find(np.concatenate([query.keys, viewer.history_keys]))
        rows, history = found[: len(query.keys)], found[len(query.keys) :]
        return Ranking(release, query, viewer, rows, history[history >= 0], release.videos)
