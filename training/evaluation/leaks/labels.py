"""Leaks in the ranker's training set: labels, and what stands beside them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from server.features.ranking_inputs import VIDEO_FEATURES, VIEWER_FEATURES
from training.evaluation.leaks.features import likes_of
from training.evaluation.leaks.timeline import LeakError, Timeline
from training.ranking.training_set import (
    LIKE_WATCHES,
    RankingSet,
    ViewerColumns,
    chosen_viewers,
)

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

_LISTS_AT_A_TIME = 4096
"""Bounds the memory: some 100 bytes for each candidate."""


def check_ranking_set(timeline: Timeline, data: RankingSet, viewers: int) -> None:
    """No label is of the test part, and all beside a label is older than it.

    The labels are the last watches of each viewer before the test, as the timeline has them; of
    more than `viewers` viewers, those of the chosen.
    """
    labels = label_places(timeline, viewers)
    lists = labels[timeline.parts[labels] == "validation"]
    for name, given, wanted in (
        ("like labels", len(data.likes.rows), len(labels)),
        ("lists", len(data.watches.rows), len(lists)),
    ):
        if given != wanted:
            raise LeakError(
                f"the ranking set has {given} {name}, the split {wanted}: they can't be "
                "checked; train again with --fresh"
            )
    _check_labels(timeline, "the ranker's like labels", labels, data.likes.rows)
    late = data.watches.moment > timeline.times[lists]
    if late.any():
        at = lists[int(np.argmax(late))]
        timeline.report(
            "moments of the ranker's lists", int(timeline.viewers[at]), int(timeline.rows[at])
        )
    found = np.flatnonzero(data.watches.label >= 0)
    watched = data.watches.rows[found, data.watches.label[found]]
    _check_labels(timeline, "the ranker's watch labels", lists[found], watched)
    _check_viewers(timeline, "the ranker's like labels", labels, data.likes.viewers)
    _check_viewers(timeline, "the ranker's lists", lists, data.watches.viewers)
    _check_videos(
        timeline, "the ranker's like labels", labels, data.likes.rows, data.likes.features
    )
    for start in range(0, len(lists), _LISTS_AT_A_TIME):
        some = slice(start, start + _LISTS_AT_A_TIME)
        rows, features = data.watches.rows[some], data.watches.features[some]
        real = rows >= 0
        own = np.repeat(lists[some], real.sum(axis=1))
        _check_videos(timeline, "the ranker's lists", own, rows[real], features[real])


def label_places(timeline: Timeline, most_viewers: int) -> Int64Array:
    """Places of the watches that label likes: chosen viewers' last before the test, int64[m]."""
    past = np.flatnonzero(~timeline.test)
    numbers = np.unique(timeline.viewers[past])
    ids = timeline.viewer_ids
    chosen = np.zeros(len(ids), np.bool_)
    chosen[numbers] = chosen_viewers([ids[number] for number in numbers], most_viewers)
    past = past[chosen[timeline.viewers[past]]]
    viewers = timeline.viewers[past]
    stops = np.searchsorted(viewers, viewers, side="right")
    return past[stops - np.arange(len(past)) <= LIKE_WATCHES]


def _check_labels(timeline: Timeline, where: str, labels: Int64Array, rows: Int64Array) -> None:
    wrong = timeline.rows[labels] != rows
    if wrong.any():
        first = int(np.argmax(wrong))
        timeline.report(where, int(timeline.viewers[labels[first]]), int(rows[first]))


def _check_viewers(
    timeline: Timeline, where: str, labels: Int64Array, columns: ViewerColumns
) -> None:
    """Histories and counts of the viewers are of before the label."""
    viewers, moments = timeline.viewers[labels], timeline.times[labels]
    which, column = np.nonzero(columns.history_rows >= 0)
    history = columns.history_rows[which, column]
    timeline.require_past(f"histories of {where}", viewers[which], history, moments[which])
    features = columns.viewer_features
    counts = np.expm1(features[:, VIEWER_FEATURES.index("log_watch_count")].astype(np.float64))
    likes = likes_of(features[:, VIEWER_FEATURES.index("like_rate")], counts)
    for given, known in (
        (counts, timeline.viewer_watches.before(viewers, moments)),
        (likes, timeline.viewer_likes.before(viewers, moments)),
    ):
        timeline.require_at_most(f"viewer features of {where}", given, known, timeline.rows[labels])


def _check_videos(
    timeline: Timeline,
    where: str,
    labels: Int64Array,
    rows: Int64Array,
    features: Float32Array,
) -> None:
    """Statistics of the videos at `rows` are of events before the label, int64[m]."""
    moments = timeline.times[labels]
    columns = features.astype(np.float64).T
    counts = np.expm1(columns[VIDEO_FEATURES.index("log_watch_count")])
    recent = np.expm1(columns[VIDEO_FEATURES.index("log_recent_watch_count")])
    likes = likes_of(columns[VIDEO_FEATURES.index("like_rate")], counts)
    watches_known = timeline.video_watches.before(rows, moments)
    likes_known = timeline.video_likes.before(rows, moments)
    for given, known in ((counts, watches_known), (recent, watches_known), (likes, likes_known)):
        timeline.require_at_most(f"video features of {where}", given, known, rows)
