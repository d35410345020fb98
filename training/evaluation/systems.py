"""Recommenders under test, each ranked in full over viewers as known before held-out watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from vireo.server.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from vireo.server.features.context import ContextIds
from vireo.server.features.keys import VideoRows, video_keys
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.data.context import contexts_of
from vireo.training.evaluation.baselines import BASELINES, Past
from vireo.training.features.viewers import PastViewers
from vireo.training.features.watches import outcome_labels
from vireo.training.metrics import coverage, full_ranking, hit_rate, ndcg, viewer_chunks

MAX_SCORES = 1_500_000_000
"""Maximum viewers x videos; each system ranks the whole catalogue for each viewer."""
MAX_VIEWERS = 8_000
"""Maximum viewers: the standard error of a hit rate is at most .006 then."""
HeldOutPart = Literal["validation", "test"]
SLATE = 100
"""Length of the list that is kept for each viewer."""
SYSTEMS = (*BASELINES, "two_tower", "chain", "served")
"""Every system that an evaluation may have, in the order of reports."""
RANKS = "ranks.npz"
"""File of a report: `viewer_ids`, and each system's ranks and slates."""
_VIEWERS = "viewer_ids"
_SLATE_OF = "slate_of_"


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
    published: Float64Array
    """When each video was published, Unix seconds, 0 if unknown, float64[n]."""
    contexts: tuple[ContextIds, ...] = ()
    """Context of each; empty if none is known."""

    def unpublished(self, part: slice) -> BoolArray:
        """Return which videos weren't out when some of them watched another, bool[some, n]."""
        later = self.published > self.moments[part, None]
        later[np.arange(len(later)), self.targets[part]] = False
        return later

    def only_published(self, lists: Int64Array) -> Int64Array:
        """Return lists without what wasn't published then, int64[v, k], -1 at their ends."""
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
    def of(watches: pd.DataFrame, video_ids: Sequence[str], published: Float64Array) -> TestBed:
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
        past = past_watches(watches, video_ids)
        held_out = watches[watches["part"] == "test"]
        none = np.empty(0, np.int64)
        viewers = TestViewers(
            ids=tuple(held_out["viewer_id"]),
            targets=_rows(held_out, video_ids),
            outcomes=outcome_labels(held_out),
            watched=tuple(past.get(viewer, none) for viewer in held_out["viewer_id"]),
            moments=held_out["time"].to_numpy("datetime64[s]").astype(np.int64),
            published=published,
            contexts=tuple(contexts_of(held_out)),
        )
        return TestBed(watches, viewers, Past(list(past.values()), len(video_ids)))


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


@dataclass(frozen=True)
class SystemReport:
    """A system's results on the held-out watches."""

    ranks: Int64Array
    """0-based rank of each held-out video, int64[v]."""
    slates: Int64Array
    """Rows of the SLATE best, int64[v, SLATE], -1 for none."""

    def measures(self, video_count: int) -> dict[str, float]:
        """Return HR@10, NDCG@10, Recall@50, Recall@100, and coverage of the first ten places."""
        return {
            "hr_10": hit_rate(self.ranks, 10),
            "ndcg_10": ndcg(self.ranks, 10),
            "recall_50": hit_rate(self.ranks, 50),
            "recall_100": hit_rate(self.ranks, 100),
            "coverage_10": coverage(self.slates[:, :10], video_count),
        }


def read_systems(folder: Path, viewer_ids: Sequence[str]) -> dict[str, SystemReport]:
    """Return a report's systems by name; none if there is no RANKS or it is of other viewers."""
    path = folder / RANKS
    if not path.exists():
        return {}
    with np.load(path) as file:
        if file[_VIEWERS].tolist() != list(viewer_ids):
            return {}
        return {
            name: SystemReport(file[name], file[_SLATE_OF + name].astype(np.int64))
            for name in SYSTEMS
            if name in file
        }


def write_systems(
    folder: Path, viewer_ids: Sequence[str], systems: Mapping[str, SystemReport]
) -> None:
    """Write RANKS: `viewer_ids`, in the order of every array, and each system's arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, npt.NDArray[Any]] = {_VIEWERS: np.array(viewer_ids, np.str_)}
    for name, system in systems.items():
        arrays[name] = system.ranks
        arrays[_SLATE_OF + name] = system.slates.astype(np.int32)
    partial = folder / f"partial-{RANKS}"
    np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
    partial.replace(folder / RANKS)


def ranks_by_system(systems: Mapping[str, SystemReport]) -> dict[str, Int64Array]:
    """Return the 0-based rank of each held-out video by system, int64[v]."""
    return {name: system.ranks for name, system in systems.items()}


def of_chunks(
    scores: Callable[[slice], Float32Array], viewers: TestViewers, videos: int
) -> SystemReport:
    """Return the results of a system that scores every video, ranked over the unwatched ones.

    Those that weren't published by then rank last, and are in no slate.

    Args:
        scores: returns the scores of a slice of the viewers, float32[some, n].
        viewers: the test viewers.
        videos: size n of the catalogue.
    """
    ranks = np.empty(len(viewers.ids), np.int64)
    slates = np.empty((len(viewers.ids), SLATE), np.int64)
    for part in viewer_chunks(len(viewers.ids), videos):
        watched = viewers.watched[part]
        own = np.where(viewers.unpublished(part), -np.inf, scores(part))
        ranks[part] = full_ranking(own, watched, viewers.targets[part])
        slates[part] = best_unwatched(own, watched)
    return SystemReport(ranks, slates)


def of_lists(lists: Int64Array, viewers: TestViewers) -> SystemReport:
    """Return the results of a system that returns lists, int64[v, at least SLATE].

    A video that isn't in its list is a miss.
    """
    return SystemReport(list_ranks(lists, viewers.targets), lists[:, :SLATE])


def best_unwatched(scores: Float32Array, watched: Sequence[Int64Array]) -> Int64Array:
    """Return rows of each viewer's SLATE best unwatched videos, int64[v, SLATE], -1 for none."""
    slates = np.full((len(scores), SLATE), -1, np.int64)
    for place, rows in enumerate(watched):
        own = np.array(scores[place])
        own[rows] = -np.inf
        # Sorting all takes several times as long as finding the last score that counts.
        cutoff = np.partition(own, -SLATE)[-SLATE] if len(own) > SLATE else -np.inf
        reached = np.flatnonzero((own >= cutoff) & np.isfinite(own))
        best = reached[np.argsort(-own[reached], kind="stable")][:SLATE]
        slates[place, : len(best)] = best
    return slates


def list_ranks(lists: Int64Array, targets: Int64Array) -> Int64Array:
    """Return the 0-based place of each target in its list, int64[v]; the maximum if missing."""
    hits = lists == targets[:, None]
    return np.where(hits.any(1), hits.argmax(1), np.iinfo(np.int64).max)
