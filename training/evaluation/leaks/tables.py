"""Leaks in a release's tables, which candidates and ranking inputs come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from server.features.ranking_inputs import VIDEO_FEATURES
from server.releases import layout
from training.evaluation.leaks.features import likes_of, recent_watches
from training.evaluation.leaks.timeline import LeakError, Timeline
from training.retrieval.co_watch import co_watch_table
from training.retrieval.data import RetrievalData
from training.retrieval.ease import ease_table

EASE_CHECKED = 5000
"""EASE of a larger catalogue takes too long to be fitted twice."""
CO_WATCH_CHECKED = 20_000
"""Of a larger catalogue the co-watch table is made again for so many videos alone."""
_TOLERANCE = 1e-3


def check_tables(timeline: Timeline, data: RetrievalData, folder: Path) -> None:
    """The tables count no event of the test part, and item-to-item ones are of `data` alone."""
    rows = np.arange(timeline.video_count)
    end = np.full(len(rows), np.iinfo(np.int64).max)
    watched = timeline.video_watches.before(rows, end)
    features = np.load(folder / layout.VIDEO_FEATURE_TABLE).astype(np.float64).T
    counts = np.expm1(features[VIDEO_FEATURES.index("log_watch_count")])
    likes = likes_of(features[VIDEO_FEATURES.index("like_rate")], counts)
    where = "the release's video features"
    timeline.require_at_most(where, counts, watched, rows)
    timeline.require_at_most(where, likes, timeline.video_likes.before(rows, end), rows)
    popularity = np.load(folder / layout.POPULARITY)
    recent = recent_watches(timeline, int(timeline.times[~timeline.test].max()))
    excess = popularity > recent + _TOLERANCE * np.maximum(recent, 1)
    if excess.any():
        first = int(np.argmax(excess))
        timeline.report_video("the release's popularity", first)
    given = tuple(
        np.load(folder / path, mmap_mode="r")
        for path in (layout.CO_WATCH_ROWS, layout.CO_WATCH_WEIGHTS)
    )
    some = range(min(CO_WATCH_CHECKED, data.video_count))
    expected = co_watch_table(data, given[0].shape[1], some)
    _require_same("co-watch", (given[0][: len(some)], given[1][: len(some)]), expected, data)
    given = np.load(folder / layout.EASE_ROWS), np.load(folder / layout.EASE_WEIGHTS)
    if given[0].shape[1] and data.video_count <= EASE_CHECKED:
        _require_same("EASE", given, ease_table(data, given[0].shape[1]), data)


def _require_same(
    name: str,
    given: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]],
    expected: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]],
    data: RetrievalData,
) -> None:
    """Raises LeakError where a table's weights aren't those that the train part gives."""
    wrong = ~np.isclose(given[1].astype(np.float32), expected[1], rtol=1e-3, atol=1e-5)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise LeakError(
            f"the release's {name} table: video {data.video_ids[row]!r} leads to "
            f"{data.video_ids[given[0][row, column]]!r} by {given[1][row, column]:.4g}, but by "
            f"what all viewers did in the train part its weight there is "
            f"{expected[1][row, column]:.4g}; train again with --fresh"
        )
