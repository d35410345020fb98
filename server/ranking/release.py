"""The ranking service's part of a release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.arrays import Int64Array
from server.features.ranking_inputs import VIDEO_FEATURES, VideoTable
from server.features.video_rows import VideoRows
from server.inference.golden import replay
from server.inference.model import Model
from server.inference.signature import ranker_signature
from server.releases import layout
from server.releases.manifest import Manifest
from server.releases.tables import VECTOR_TYPES, read_ids, read_table, read_vocabulary
from server.releases.texts import Texts, read_mapped_texts

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

    @staticmethod
    def load(folder: Path) -> RankingRelease:
        """Load the release in `folder`: its manifest and FILES except goldens.

        Digests aren't checked here but by the cache, when it returns the folder.

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
        return RankingRelease(
            folder=folder,
            manifest=manifest,
            ranker=Model(folder / layout.RANKER, ranker_signature(size)),
            table=VideoTable(vectors, features, content),
            ids=read_ids(folder, layout.VIDEO_IDS, keys),
            titles=read_mapped_texts(folder / layout.VIDEO_TITLES, count),
            vocabulary=read_vocabulary(folder, layout.VOCABULARY),
            rows=VideoRows(keys),
        )

    def replay_goldens(self) -> None:
        """Raise ReleaseError unless the ranking model reproduces its outputs of training."""
        replay(self.ranker, self.folder / layout.GOLDEN_RANKER)
