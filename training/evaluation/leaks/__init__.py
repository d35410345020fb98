"""Checks that nothing of a test watch, nor anything later of its viewer, reached training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from server.arrays import Float32Array, Int32Array, Int64Array
from server.features.ranking_inputs import VIDEO_FEATURES
from server.releases import layout
from training.evaluation.leaks.features import (
    check_activity,
    check_statistics,
    likes_of,
    require_recent,
)
from training.evaluation.leaks.labels import check_ranking_set
from training.evaluation.leaks.timeline import LeakError, Timeline
from training.ranking.config import RankingConfig
from training.ranking.training_set import RankingSet
from training.retrieval.co_watch import co_watch_table
from training.retrieval.data import RetrievalData
from training.retrieval.ease import ease_table
from training.retrieval.sequences import Watches


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
    numbers = timeline.viewer_numbers(data.viewer_ids)
    start = 0
    for group in data.sequences.groups():
        viewers = numbers[start : start + len(group.attributes)]
        start += len(viewers)
        _check_sequences(timeline, "train", viewers, group.train)
        _check_sequences(timeline, "validation", viewers, group.held_out)


def _check_sequences(timeline: Timeline, part: str, viewers: Int64Array, given: Watches) -> None:
    owners = np.repeat(viewers, np.diff(given.offsets))
    places = timeline.find(owners, given.rows)
    wrong = (places < 0) | (timeline.parts[places] != part)
    # Places of a viewer's watches ascend with time.
    same = owners[1:] == owners[:-1]
    wrong[1:] |= same & (np.diff(places) <= 0)
    wrong |= timeline.times[places] // 1_000_000 != given.times
    timeline.forbid(f"the towers' {part} sequences", wrong, owners, given.rows)


MAX_EASE_VIDEOS = 5000
"""Maximum catalogue whose EASE is fitted again for the check."""
MAX_CO_WATCH_VIDEOS = 20_000
"""Maximum videos whose co-watch table is computed again."""

Table = tuple[Int32Array, Float32Array]
"""Rows and weights of each video's neighbours."""


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
    co_rows = np.load(folder / layout.CO_WATCH_ROWS, mmap_mode="r")
    co_weights = np.load(folder / layout.CO_WATCH_WEIGHTS, mmap_mode="r")
    some = range(min(MAX_CO_WATCH_VIDEOS, data.video_count))
    expected = co_watch_table(data, co_rows.shape[1], some)
    _require_same("co-watch", (co_rows[: len(some)], co_weights[: len(some)]), expected, data)
    ease = np.load(folder / layout.EASE_ROWS), np.load(folder / layout.EASE_WEIGHTS)
    if ease[0].shape[1] and data.video_count <= MAX_EASE_VIDEOS:
        _require_same("EASE", ease, ease_table(data, ease[0].shape[1]), data)


def _require_same(name: str, given: Table, expected: Table, data: RetrievalData) -> None:
    wrong = ~np.isclose(given[1].astype(np.float32), expected[1], rtol=1e-3, atol=1e-5)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise LeakError(
            f"the release's {name} table: the weight of {data.video_ids[given[0][row, column]]!r} "
            f"for video {data.video_ids[row]!r} is {given[1][row, column]:.4g}, but the train part "
            f"gives {expected[1][row, column]:.4g}; train again with --fresh"
        )


__all__ = ["LeakError", "check_inputs", "check_made"]


def check_inputs(watches: pd.DataFrame, data: RetrievalData, repo: Path) -> None:
    """Check the inputs of training: split, towers' data and feature tables.

    Args:
        watches: as in `training.features.watches.WATCHES`.
        data: the towers' data.
        repo: the feature folder.

    Raises:
        LeakError: an input has a test watch or something later, or the towers' data has labels of
            the ranker.
    """
    timeline = Timeline(watches, data.video_ids)
    del watches  # The timeline has all that is checked.
    check_split(timeline)
    check_retrieval_data(timeline, data)
    check_activity(timeline, repo, data.video_rows())
    check_statistics(timeline, repo)


def check_made(
    watches: pd.DataFrame,
    data: RetrievalData,
    release: Path,
    ranking_set: RankingSet | None,
    viewers: int = RankingConfig.viewers,
) -> None:
    """Check the results of training: a release's tables, and the ranker's training set.

    Args:
        watches: as in `training.features.watches.WATCHES`.
        data: the towers' data.
        release: its folder, with or without the ranker.
        ranking_set: the ranking set drawn from it; None to check the tables alone.
        viewers: maximum viewers of the ranking set, see `RankingConfig`.

    Raises:
        LeakError: see `check_inputs`.
    """
    timeline = Timeline(watches, data.video_ids)
    del watches
    check_tables(timeline, data, release)
    if ranking_set is not None:
        check_ranking_set(timeline, ranking_set, viewers)
