"""Places videos that a release wasn't trained with, by their content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.event_log.log import Position
from vireo.server.features.content import CONTENT_LIMIT, content_ids, content_tokens
from vireo.server.features.keys import VideoRows
from vireo.server.features.looked_up import Vectors
from vireo.server.models.model import Model, replay
from vireo.server.models.signature import video_tower_signature
from vireo.server.recommend.filters.declared import Declared
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.tables import read_table, read_vocabulary

if TYPE_CHECKING:
    # Benchmarks' environments lack stubs.
    from vireo.v1.catalog_pb2 import Video

FILES = (
    layout.VIDEO_TOWER,
    layout.GOLDEN_VIDEO_TOWER,
    layout.CONTENT_VOCABULARY,
    layout.CONTENT_IDS,
)
"""The files of a release by which it places videos."""


@dataclass(frozen=True)
class Placement:
    """The video tower of a release of n videos, for vectors of d dimensions."""

    folder: Path
    tower: Model
    vocabulary: Mapping[str, int]
    known: npt.NDArray[np.uint16]
    """Content of the release's own videos by row, uint16[n, CONTENT_LIMIT]."""

    @staticmethod
    def load(folder: Path, manifest: Manifest, count: int) -> Placement:
        """Load it from a release's folder.

        Raises:
            ReleaseError: a file is missing or invalid; the message names it.
        """
        signature = video_tower_signature(manifest.feature_schema)
        return Placement(
            folder,
            Model(folder / layout.VIDEO_TOWER, signature),
            read_vocabulary(folder, layout.CONTENT_VOCABULARY),
            read_table(folder, layout.CONTENT_IDS, np.uint16, (count, CONTENT_LIMIT)),
        )

    def replay_goldens(self) -> None:
        """Raise ReleaseError unless the tower reproduces its outputs of training."""
        replay(self.tower, self.folder / layout.GOLDEN_VIDEO_TOWER)

    def content(self, videos: Sequence[Video]) -> Int64Array:
        """Return the content of some videos, int64[m, CONTENT_LIMIT]."""
        tokens = [
            content_tokens(
                each.title or each.video_id,
                each.tags,
                _year(each),
                each.duration if each.HasField("duration") and isfinite(each.duration) else None,
                each.creator,
            )
            for each in videos
        ]
        return content_ids(tokens, self.vocabulary).astype(np.int64)

    def vectors(self, content: Int64Array) -> tuple[Float32Array, Float32Array]:
        """Return the vectors and the content vectors of unwatched videos, float32[m, d] each.

        The tower runs on each alone, in 20 us: a batch rounds otherwise by its size, so that pods,
        and replays of their slates, would differ.
        """
        made = [self.tower.run({"content": each[None]}) for each in content]
        vectors, contents = np.split(np.concatenate(made), 2, axis=1)
        return vectors, contents


@dataclass(frozen=True)
class KnownVideos:
    """What live videos need of their release of n videos."""

    rows: VideoRows
    vectors: Vectors
    """float32[n, d] or float16[n, d]."""
    position: Position
    """Position in the log of the catalogue's changes up to which the release has them."""
    placement: Placement
    features: Float32Array | None = None
    """VIDEO_FEATURES, float32[n, f], which ranking needs."""
    creators: Int64Array | None = None
    """Key of each video's creator, -1 if unknown, int64[n], which ranking needs."""
    declared: Declared | None = None
    """Attributes that filters need; None if nothing is filtered."""


def _year(video: Video) -> int | None:
    if not video.HasField("published"):
        return None
    try:
        return video.published.ToDatetime(UTC).year
    except (ValueError, OverflowError):  # out of the range that a calendar has
        return None
