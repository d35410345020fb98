"""A query to the ranking pipeline, and what its stages share about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.features.model_inputs import VideoTable
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.page import NO_CAPS, Caps, LabelsOf
from vireo.server.recommend.ranking.release import RankingRelease


@dataclass(frozen=True)
class PageRules:
    """What the site's rules ask of a page of n candidates."""

    factors: Float32Array | None = None
    """Factor of each candidate's score, float32[n]; None if all are 1."""
    pins: Mapping[int, int] = field(default_factory=dict)
    """Key of the video that each position is for, from 0."""
    caps: Sequence[tuple[int, LabelsOf]] = ()
    """Maximum videos with the same label, and the labels of the candidate at a place."""
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
    caps: Caps = NO_CAPS
    """Labels of the query's page."""

    @staticmethod
    def of(release: RankingRelease, query: RankingQuery) -> Ranking:
        """Prepare `query`."""
        viewer = query.viewer.playing(query.seed_key)
        found = release.find(np.concatenate([query.keys, viewer.history_keys]))
        rows, history = found[: len(query.keys)], found[len(query.keys) :]
        caps = NO_CAPS if query.rules is None else Caps(query.rules.caps)
        return Ranking(release, query, viewer, rows, history[history >= 0], release.videos, caps)
