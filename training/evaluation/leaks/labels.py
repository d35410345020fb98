"""Leaks in the ranker's training set: its labels, and the inputs beside them."""

from __future__ import annotations

import numpy as np

from server.arrays import Float32Array, Int64Array
from server.features.ranking_inputs import VIDEO_FEATURES, VIEWER_FEATURES
from training.evaluation.leaks.features import likes_of
from training.evaluation.leaks.timeline import LeakError, Timeline
from training.ranking.training_set import OUTCOME_WATCHES, RankingSet, ViewerColumns, chosen_viewers

_LISTS_AT_A_TIME = 4096
"""Bounds memory: some 100 bytes a candidate."""


def check_ranking_set(timeline: Timeline, data: RankingSet, viewers: int) -> None:
    """Check that no label is of the test part, and that the inputs beside a label are older.

    The labels are each viewer's last watches before the test; of at most `viewers` chosen viewers.
    """
    labels = label_places(timeline, viewers)
    lists = labels[timeline.parts[labels] == "validation"]
    for name, given, wanted in (
        ("outcome labels", len(data.outcomes.rows), len(labels)),
        ("lists", len(data.watches.rows), len(lists)),
    ):
        if given != wanted:
            raise LeakError(
                f"the ranking set has {given} {name}, the split {wanted}: they can't be "
                "checked; train again with --fresh"
            )
    watches, outcomes = data.watches, data.outcomes
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
    for start in range(0, len(lists), _LISTS_AT_A_TIME):
        some = slice(start, start + _LISTS_AT_A_TIME)
        rows, features = watches.rows[some], watches.features[some]
        real = rows >= 0
        own = np.repeat(lists[some], real.sum(axis=1))
        _check_videos(timeline, "the ranker's lists", own, rows[real], features[real])


def label_places(timeline: Timeline, max_viewers: int) -> Int64Array:
    """Return places of the watches that label outcomes: chosen viewers' last before the test."""
    past = np.flatnonzero(~timeline.test)
    numbers = np.unique(timeline.viewers[past])
    ids = timeline.viewer_ids
    chosen = np.zeros(len(ids), np.bool_)
    chosen[numbers] = chosen_viewers([ids[number] for number in numbers], max_viewers)
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
