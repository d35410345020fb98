"""Viewers with held-out watches, as known just before these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from vireo.server.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from vireo.server.features.context import ContextIds
from vireo.server.features.keys import VideoRows, video_keys
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.data.context import contexts_of
from vireo.training.evaluation.baselines import Past
from vireo.training.features.viewers import PastViewers
from vireo.training.features.watches import outcome_labels

MAX_SCORES = 1_500_000_000
"""Maximum viewers x videos; each system ranks the whole catalogue for each viewer."""
MAX_VIEWERS = 8_000
"""Maximum viewers: the standard error of a hit rate is at most .006 then."""
HeldOutPart = Literal["validation", "test"]


@dataclass(frozen=True)
class TestViewers:
    """The viewers with a watch held out for test."""

    __test__ = False  # The name would have pytest collect it.

    ids: tuple[str, ...]
    targets: Int64Array
    """Row of each held-out video, int64[v]."""
    outcomes: Float32Array
    """Whether each of OUTCOMES followed: 1 or 0, NaN if unknown, float32[v, t]."""
    watched: tuple[Int64Array, ...]
    """Rows that each watched before."""
    moments: Int64Array
    """Unix seconds of each held-out watch, int64[v]."""
    contexts: tuple[ContextIds, ...] = ()
    """Context of each; empty if none is known."""
    published: Float64Array | None = None
    """When each video was published, Unix seconds, 0 if unknown, float64[n]; None if all were
    before the first held-out watch."""

    def unpublished(self, part: slice) -> BoolArray | None:
        """Return which videos weren't published when some of them watched another, bool[some, n].

        None if every video was.
        """
        if self.published is None:
            return None
        later = self.published > self.moments[part, None]
        later[np.arange(len(later)), self.targets[part]] = False
        return later

    def only_published(self, lists: Int64Array) -> Int64Array:
        """Return lists without what wasn't published then, int64[v, k], -1 at their ends."""
        if self.published is None:
            return lists
        known = self.published[lists] <= self.moments[:, None]
        known = (lists >= 0) & (known | (lists == self.targets[:, None]))
        order = np.argsort(~known, axis=1, kind="stable")
        return np.take_along_axis(np.where(known, lists, -1), order, 1)


@dataclass(frozen=True)
class TestBed:
    """The test viewers, and what was known before the test."""

    __test__ = False  # The name would have pytest collect it.

    watches: pd.DataFrame
    """The split."""
    viewers: TestViewers
    past: Past

    @staticmethod
    def of(
        watches: pd.DataFrame, video_ids: Sequence[str], published: Float64Array | None = None
    ) -> TestBed:
        """Return the test bed of a split; rows are places in `video_ids`.

        `published` is as in TestViewers.

        Of more than MAX_VIEWERS, or of so many that a system would compute more than MAX_SCORES, a
        sample is drawn.
        """
        limit = max(1, min(MAX_VIEWERS, MAX_SCORES // max(len(video_ids), 1)))
        test = np.flatnonzero(watches["part"] == "test")
        if len(test) > limit:
            kept = np.random.default_rng(0).choice(test, limit, replace=False)
            watches = watches[~np.isin(np.arange(len(watches)), np.setdiff1d(test, kept))]
        past = list(past_watches(watches, video_ids).values())
        viewers = load_test_viewers(watches, video_ids, published)
        return TestBed(watches, viewers, Past(past, len(video_ids)))


def load_test_viewers(
    watches: pd.DataFrame, video_ids: Sequence[str], published: Float64Array | None = None
) -> TestViewers:
    """Return the test viewers of a split; rows are places in `video_ids`.

    `published` is as in TestViewers.
    """
    test = watches[watches["part"] == "test"]
    moments = test["time"].to_numpy("datetime64[s]").astype(np.int64)
    if (
        published is not None
        and not (published > moments.min(initial=np.iinfo(np.int64).max)).any()
    ):
        published = None
    own = watches["viewer_id"].isin(test["viewer_id"])
    past = past_watches(watches[own], video_ids)
    none = np.empty(0, np.int64)
    return TestViewers(
        ids=tuple(test["viewer_id"]),
        targets=_rows(test, video_ids),
        outcomes=outcome_labels(test),
        watched=tuple(past.get(viewer, none) for viewer in test["viewer_id"]),
        moments=moments,
        contexts=tuple(contexts_of(test)),
        published=published,
    )


def past_watches(watches: pd.DataFrame, video_ids: Sequence[str]) -> dict[str, Int64Array]:
    """Return the rows that each viewer watched before the test, oldest first, by viewer id."""
    seen = watches[watches["part"] != "test"]
    numbers, viewers = pd.factorize(seen["viewer_id"], sort=True)
    rows = _rows(seen, video_ids)[np.argsort(numbers, kind="stable")]
    stops = np.cumsum(np.bincount(numbers, minlength=len(viewers))).tolist()
    # Views of one array: a million arrays would take more memory than the rows.
    return {
        str(viewer): rows[start:stop]
        for viewer, (start, stop) in zip(viewers, pairwise([0, *stops]), strict=True)
    }


def features_before_test(watches: pd.DataFrame, repo: Path) -> list[ViewerFeatures]:
    """Return each test viewer's features just before the held-out watch, validation included."""
    return PastViewers(repo).before(watches[watches["part"] == "test"])


def _rows(watches: pd.DataFrame, video_ids: Sequence[str]) -> Int64Array:
    index = pd.Index(list(video_ids))
    return index.get_indexer(pd.Index(watches["video_id"])).astype(np.int64)


@dataclass(frozen=True)
class HeldOutWatches:
    """Each viewer's last watch of a part."""

    viewers: tuple[ViewerFeatures, ...]
    targets: Int64Array
    """Row of each watched video, int64[v]."""


def last_held_out(
    watches: pd.DataFrame,
    repo: Path,
    rows: VideoRows,
    part: HeldOutPart,
    limit: int | None = None,
) -> HeldOutWatches:
    """Return each viewer's last watch of a part, with the features of a request at its time.

    Args:
        watches: as in `vireo.training.features.watches.WATCHES`.
        repo: the feature folder.
        rows: the release's rows.
        part: "validation" to choose by, "test" to report.
        limit: maximum viewers; of more, the same sample is drawn each time.
    """
    held_out = watches[watches["part"] == part]
    last = held_out.drop_duplicates("viewer_id", keep="last").reset_index(drop=True)
    if limit is not None and len(last) > limit:
        places = np.random.default_rng(0).choice(len(last), limit, replace=False)
        last = last.iloc[places].reset_index(drop=True)
    keys = video_keys(last["video_id"].tolist())
    return HeldOutWatches(tuple(PastViewers(repo).before(last)), rows.find(keys))
