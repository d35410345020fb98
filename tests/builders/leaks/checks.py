"""Checks of training: nothing of a test watch, nor anything later of its viewer, reached it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tests.builders.leaks.features import (
    check_activity,
    check_statistics,
    likes_of,
    require_recent,
)
from tests.builders.leaks.timeline import LeakError, Timeline
from vireo.server.arrays import Float32Array, Int32Array, Int64Array
from vireo.server.features.model_inputs import VIDEO_FEATURES, VIEWER_FEATURES
from vireo.server.releases import layout
from vireo.server.signals import OUTCOMES
from vireo.training.ranking.config import RankingConfig
from vireo.training.ranking.training_set import (
    OUTCOME_WATCHES,
    OutcomeLabels,
    RankingSet,
    ViewerColumns,
    chosen_viewers,
)
from vireo.training.retrieval.co_watch import co_watch_table
from vireo.training.retrieval.data import RetrievalData, Watches
from vireo.training.retrieval.ease import EASE_NEIGHBOURS, ease_table

__all__ = ["LeakError", "check_inputs", "check_made"]

Table = tuple[Int32Array, Float32Array]
"""Rows and weights of each video's neighbours."""


def check_ranking_set(timeline: Timeline, data: RankingSet) -> None:
    """Check that no label is of the test part, and that the inputs beside a label are older.

    The labels are each chosen viewer's last watches before the test.
    """
    labels = label_places(timeline)
    lists = labels[timeline.parts[labels] == "validation"]
    outcomes = _of_watches(data.outcomes)
    for name, given, wanted in (
        ("outcome labels", len(outcomes.rows), len(labels)),
        ("lists", len(data.watches.rows), len(lists)),
    ):
        if given != wanted:
            raise LeakError(f"the ranking set has {given} {name}, the split {wanted}")
    watches = data.watches
    where = "the ranker's outcome labels"
    _check_labels(timeline, where, labels, outcomes.rows)
    late = watches.moment > timeline.times[lists]
    timeline.forbid(
        "moments of the ranker's lists", late, timeline.viewers[lists], timeline.rows[lists]
    )
    found = np.flatnonzero(watches.label >= 0)
    watched = watches.rows[found, watches.label[found]]
    _check_labels(timeline, "the ranker's watch labels", lists[found], watched)
    _check_viewers(timeline, where, labels, outcomes.viewers)
    _check_viewers(timeline, "the ranker's lists", lists, watches.viewers)
    _check_videos(timeline, where, labels, outcomes.rows, outcomes.features)
    real = watches.rows >= 0
    own = np.repeat(lists, real.sum(axis=1))
    _check_videos(timeline, "the ranker's lists", own, watches.rows[real], watches.features[real])


def _of_watches(outcomes: OutcomeLabels) -> OutcomeLabels:
    """Return the labels without those of hidden videos, which aren't among the watches."""
    hide = [task.name for task in OUTCOMES].index("hide")
    own = np.flatnonzero(outcomes.labels[:, hide] != 1)
    arrays = {
        name: getattr(outcomes, name)[own] for name in ("rows", "features", "match", "labels")
    }
    return OutcomeLabels(viewers=outcomes.viewers.take(own), **arrays)


def label_places(timeline: Timeline) -> Int64Array:
    """Return places of the watches that label outcomes: chosen viewers' last before the test."""
    past = np.flatnonzero(~timeline.test)
    numbers = np.unique(timeline.viewers[past])
    ids = timeline.viewer_ids
    chosen = np.zeros(len(ids), np.bool_)
    chosen[numbers] = chosen_viewers([ids[number] for number in numbers], RankingConfig.viewers)
    past = past[chosen[timeline.viewers[past]]]
    viewers = timeline.viewers[past]
    stops = np.searchsorted(viewers, viewers, side="right")
    return past[stops - np.arange(len(past)) <= OUTCOME_WATCHES]


def _check_labels(timeline: Timeline, where: str, labels: Int64Array, rows: Int64Array) -> None:
    timeline.forbid(where, timeline.rows[labels] != rows, timeline.viewers[labels], rows)


def _check_viewers(
    timeline: Timeline, where: str, labels: Int64Array, columns: ViewerColumns
) -> None:
    """Check that the viewers' histories and counts are of before the label."""
    viewers, moments = timeline.viewers[labels], timeline.times[labels]
    which, column = np.nonzero(columns.history_rows >= 0)
    history = columns.history_rows[which, column]
    timeline.require_past(f"histories of {where}", viewers[which], history, moments[which])
    features = columns.viewer_features
    counts = np.expm1(features[:, VIEWER_FEATURES.index("log_watch_count")].astype(np.float64))
    likes = likes_of(features[:, VIEWER_FEATURES.index("like_rate")], counts)
    for given, known in ((counts, timeline.viewer_watches), (likes, timeline.viewer_likes)):
        timeline.require_at_most(
            f"viewer features of {where}",
            given,
            known.before(viewers, moments),
            timeline.rows[labels],
        )


def _check_videos(
    timeline: Timeline,
    where: str,
    labels: Int64Array,
    rows: Int64Array,
    features: Float32Array,
) -> None:
    """Check that statistics of the videos at `rows` are of before the label, int64[m]."""
    moments = timeline.times[labels]
    columns = features.astype(np.float64).T
    counts = np.expm1(columns[VIDEO_FEATURES.index("log_watch_count")])
    recent = np.expm1(columns[VIDEO_FEATURES.index("log_recent_watch_count")])
    likes = likes_of(columns[VIDEO_FEATURES.index("like_rate")], counts)
    watches_known = timeline.video_watches.before(rows, moments)
    likes_known = timeline.video_likes.before(rows, moments)
    for given, known in ((counts, watches_known), (recent, watches_known), (likes, likes_known)):
        timeline.require_at_most(f"video features of {where}", given, known, rows)


def check_split(timeline: Timeline) -> None:
    """Check that all other watches of a viewer come before the test part, and that none repeats."""
    viewers, rows = timeline.viewers, timeline.rows
    late = ~timeline.test & (timeline.times >= timeline.test_times[viewers])
    timeline.forbid("the split, at or after the test watch", late, viewers, rows)
    repeated = timeline.find(viewers, rows) != np.arange(len(rows))
    timeline.forbid("the split", repeated, viewers, rows)


def check_retrieval_data(timeline: Timeline, data: RetrievalData) -> None:
    """Check that the towers learn from the train part alone and are validated on validation.

    The order within each part must be that of time: inputs of a position are older than its target.
    """
    viewers = timeline.viewer_numbers(data.viewer_ids)
    _check_sequences(timeline, "train", viewers, data.train)
    _check_sequences(timeline, "validation", viewers, data.held_out)


def _check_sequences(timeline: Timeline, part: str, viewers: Int64Array, given: Watches) -> None:
    owners = np.repeat(viewers, np.diff(given.offsets))
    places = timeline.find(owners, given.rows)
    wrong = (places < 0) | (timeline.parts[places] != part)
    # Places of a viewer's watches ascend with time.
    same = owners[1:] == owners[:-1]
    wrong[1:] |= same & (np.diff(places) <= 0)
    wrong |= timeline.times[places] // 1_000_000 != given.times
    timeline.forbid(f"the towers' {part} sequences", wrong, owners, given.rows)


def check_tables(timeline: Timeline, data: RetrievalData, folder: Path) -> None:
    """Check that the tables count no test event, and item-to-item ones come from `data` alone."""
    rows = np.arange(timeline.video_count)
    end = np.full(len(rows), np.iinfo(np.int64).max)
    features = np.load(folder / layout.VIDEO_FEATURE_TABLE).astype(np.float64).T
    counts = np.expm1(features[VIDEO_FEATURES.index("log_watch_count")])
    likes = likes_of(features[VIDEO_FEATURES.index("like_rate")], counts)
    for given, known in ((counts, timeline.video_watches), (likes, timeline.video_likes)):
        where = "the release's video features"
        timeline.require_at_most(where, given, known.before(rows, end), rows)
    popularity = np.load(folder / layout.POPULARITY)
    last = int(timeline.times[~timeline.test].max())
    require_recent(timeline, "the release's popularity", popularity, last, rows)
    co_watch = np.load(folder / layout.CO_WATCH_ROWS), np.load(folder / layout.CO_WATCH_WEIGHTS)
    expected = co_watch_table(data, co_watch[0].shape[1])
    _require_same("co-watch", co_watch, expected, data)
    ease = np.load(folder / layout.EASE_ROWS), np.load(folder / layout.EASE_WEIGHTS)
    # Unless a profile's `ease_limit` is below these few videos.
    if ease[0].shape[1] == min(EASE_NEIGHBOURS, data.video_count):
        _require_same("EASE", ease, ease_table(data, ease[0].shape[1]), data)


def _require_same(name: str, given: Table, expected: Table, data: RetrievalData) -> None:
    wrong = ~np.isclose(given[1].astype(np.float32), expected[1], rtol=1e-3, atol=1e-5)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise LeakError(
            f"the release's {name} table: the weight of {data.video_ids[given[0][row, column]]!r} "
            f"for video {data.video_ids[row]!r} is {given[1][row, column]:.4g}, but the train part "
            f"gives {expected[1][row, column]:.4g}"
        )


def check_inputs(watches: pd.DataFrame, data: RetrievalData, repo: Path) -> None:
    """Check the inputs of training: split, towers' data and feature tables.

    Args:
        watches: as in `vireo.training.features.watches.WATCHES`.
        data: the towers' data.
        repo: the feature folder.

    Raises:
        LeakError: an input has a test watch or something later, or the towers' data has labels of
            the ranker.
    """
    timeline = Timeline(watches, data.video_ids)
    check_split(timeline)
    check_retrieval_data(timeline, data)
    check_activity(timeline, repo, data.video_rows)
    check_statistics(timeline, repo)


def check_made(
    watches: pd.DataFrame,
    data: RetrievalData,
    release: Path,
    ranking_set: RankingSet | None,
) -> None:
    """Check the results of training: a release's tables, and the ranker's training set.

    Args:
        watches: as in `vireo.training.features.watches.WATCHES`.
        data: the towers' data.
        release: its folder, with or without the ranker.
        ranking_set: the ranking set drawn from it; None to check the tables alone.

    Raises:
        LeakError: see `check_inputs`.
    """
    timeline = Timeline(watches, data.video_ids)
    check_tables(timeline, data, release)
    if ranking_set is not None:
        check_ranking_set(timeline, ranking_set)
