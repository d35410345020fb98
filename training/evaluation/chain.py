"""The whole chain in process over the test viewers: the responses that serving would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from vireo.server.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from vireo.server.candidate.pipeline import CandidatePipeline, CandidateQuery, RetrievedCandidates
from vireo.server.candidate.release import CandidateRelease
from vireo.server.features.context import ContextIds
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.ranking.pipeline import RankingPipeline, RankingQuery
from vireo.server.ranking.release import RankingRelease
from vireo.server.signals import OUTCOMES, SCORES
from vireo.training.data.context import contexts_of
from vireo.training.features.history import viewers_before
from vireo.training.features.publication import of_the_past
from vireo.training.features.statistics import Snapshots, just_before
from vireo.training.features.watches import outcome_labels
from vireo.training.heartbeat import tracked

SLATE = 100
"""Length of the list that is kept for each viewer."""


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
class ChainAnswers:
    """Responses of the whole chain, and of retrieval within it, to v viewers."""

    candidates: Int64Array
    """Retrieved rows, best first, int64[v, c], -1 for none."""
    ranked: Int64Array
    """The same rows in the ranker's order, int64[v, c]."""
    scores: Float32Array
    """Score of each of `ranked`, float32[v, c], 0 for none."""
    watch: Float32Array
    """Watch probability of each of `ranked`, float32[v, c], 0 for none."""
    target_outcomes: Float32Array
    """Probabilities of OUTCOMES of each viewer's target, float32[v, t]; NaN of those that the
    release doesn't predict."""


def with_fewer_tested(watches: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return the watches of a split with at most `limit` test watches, a reproducible sample."""
    test = np.flatnonzero(watches["part"] == "test")
    if len(test) <= limit:
        return watches
    kept = np.random.default_rng(0).choice(test, limit, replace=False)
    dropped = np.zeros(len(watches), np.bool_)
    dropped[np.setdiff1d(test, kept)] = True
    return watches[~dropped]


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
    return viewers_before(repo, watches[watches["part"] == "test"])


def _rows(watches: pd.DataFrame, video_ids: Sequence[str]) -> Int64Array:
    index = pd.Index(list(video_ids))
    return index.get_indexer(pd.Index(watches["video_id"])).astype(np.int64)


def tower_scores(release: CandidateRelease, viewers: Sequence[ViewerFeatures]) -> Float32Array:
    """Return the two-tower score of every video for each viewer, float32[v, n].

    The tower runs on one viewer at a time, as in serving: batches round differently.
    """
    vectors = np.stack([release.viewer_vector(viewer) for viewer in viewers])
    return vectors @ release.vectors.T.astype(np.float32, copy=False)


def run_chain(
    candidates: CandidateRelease,
    ranking: RankingRelease,
    viewers: Sequence[ViewerFeatures],
    targets: Int64Array,
    count: int,
    repo: Path | None,
) -> ChainAnswers:
    """Run both pipelines on `count` candidates for each viewer; predict each target's outcomes.

    Args:
        candidates: the release, as a candidate pod loads it.
        ranking: the same, as a ranking pod loads it.
        viewers: the viewers, each as of a request at `asked_at`.
        targets: row of each viewer's held-out video, int64[v].
        count: number of candidates.
        repo: the feature folder with VIDEO_FEATURES as of each request, which the ranker's
            training set has too; then videos published later are no candidates, apart from the
            target. None for those of the release, and the videos of now, as pods have them at any
            time.
    """
    embargo = None
    if repo is not None:
        candidates, embargo = of_the_past(candidates)
    retrieval = CandidatePipeline(candidates, fail_open=False)
    shape = (len(viewers), count)
    drawn, ranked = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    scores, watch = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    outcomes = np.zeros((len(viewers), len(OUTCOMES)), np.float32)
    snapshots = Snapshots(repo, ranking.ids) if repo else None
    asked = just_before(np.array([viewer.asked_at for viewer in viewers], np.int64))
    before = snapshots.before(asked) if snapshots else np.zeros(len(viewers), np.int64)

    @lru_cache(maxsize=1)
    def ranker_at(snapshot: int) -> RankingPipeline:
        if snapshots is None:
            return RankingPipeline(ranking)
        table = replace(ranking.table, features=snapshots.features(snapshot))
        return RankingPipeline(replace(ranking, table=table))

    by_time = np.argsort(before, kind="stable").tolist()
    for place in tracked(by_time, "asking the chain", Console(stderr=True)):
        viewer, ranker = viewers[place], ranker_at(int(before[place]))
        if embargo is not None:
            embargo.ask(viewer.asked_at, int(targets[place]))
        found = retrieval.retrieve(CandidateQuery(viewer=viewer, count=count))
        outcomes[place] = _outcomes(ranker, viewer, candidates.keys[targets[place]])
        size = len(found.keys)
        if not size:  # Every video of a small catalogue was watched.
            continue
        drawn[place, :size] = found.rows
        best = ranker.rank(ranking_query(viewer, found))
        ranked[place, :size] = best.rows
        scores[place, :size], watch[place, :size] = best.scores, best.tasks["watch"]
    return ChainAnswers(drawn, ranked, scores, watch, outcomes)


def ranking_query(viewer: ViewerFeatures, found: RetrievedCandidates) -> RankingQuery:
    """Return the query that ranks everything that was retrieved for a viewer."""
    return RankingQuery(
        viewer=viewer,
        keys=found.keys,
        scores=found.scores,
        source_masks=found.source_masks,
        page_size=len(found.keys),
    )


def _outcomes(ranker: RankingPipeline, viewer: ViewerFeatures, key: np.int64) -> list[float]:
    """Return a video's probabilities of OUTCOMES, which don't depend on how it was retrieved."""
    answer = ranker.rank(
        RankingQuery(
            viewer=viewer,
            keys=np.array([key], np.int64),
            scores={score.name: np.array([score.neutral], np.float32) for score in SCORES},
            source_masks=np.zeros(1, np.uint32),
            page_size=1,
        )
    )
    unknown = np.full(1, np.nan)
    return [float(answer.tasks.get(task.name, unknown)[0]) for task in OUTCOMES]


def list_ranks(lists: Int64Array, targets: Int64Array) -> Int64Array:
    """Return the 0-based place of each target in its list, int64[v]; the maximum if missing."""
    hits = lists == targets[:, None]
    return np.where(hits.any(1), hits.argmax(1), np.iinfo(np.int64).max)
