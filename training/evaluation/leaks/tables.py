"""Leaks in a release's tables, which candidates and ranking inputs come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from server.arrays import Float32Array, Int32Array
from server.features.ranking_inputs import VIDEO_FEATURES
from server.releases import layout
from training.evaluation.leaks.features import likes_of, require_recent
from training.evaluation.leaks.timeline import LeakError, Timeline
from training.retrieval.co_watch import co_watch_table
from training.retrieval.data import RetrievalData
from training.retrieval.ease import ease_table

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
