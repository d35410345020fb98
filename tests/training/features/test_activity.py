"""The offline rows, made by column, against the activity that each event leaves behind."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders.datasets import random_interactions
from vireo.server.features.activity import HISTORY_LIMIT, WATCHED_LIMIT
from vireo.server.features.keys import video_key
from vireo.training.data.split import split_watches
from vireo.training.features import activity as offline

SECOND = 1_000_000
COUNTS = ("viewer_watch_count", "viewer_like_count")


Row = tuple[list[int], list[int], list[int], list[bool], int, int]
"""Times and keys of the last watches, those that are known to be liked, and counts of both."""


@pytest.fixture(scope="module")
def watches() -> pd.DataFrame:
    interactions = random_interactions()
    moments = interactions["timestamp"].astype("datetime64[us, UTC]")
    interactions["timestamp"] = moments
    split = split_watches(interactions, "last")
    return split[split["part"] != "test"]


def recomputed(mine: pd.DataFrame, time: int, limits: tuple[int, int]) -> Row:
    """What is known of a viewer at a time, from the rows of the watches alone."""
    history, watched = limits
    liked_times = mine["liked_time"].astype("int64").to_numpy()
    times = mine["time"].astype("int64").to_numpy()
    liked, seen = (liked_times > 0) & (liked_times <= time), times <= time
    return (
        (times[seen] // SECOND)[-history:].tolist(),
        [video_key(video) for video in mine["video_id"][seen]][-watched:],
        times[seen][-watched:].tolist(),
        liked[seen][-watched:].tolist(),
        int(seen.sum()),
        int(liked.sum()),
    )


def expected_rows(
    watches: pd.DataFrame, since: int, limits: tuple[int, int]
) -> list[tuple[str, int, Row]]:
    """A row of each moment at which something happened, of the last watches."""
    rows = []
    for viewer, mine in watches.groupby("viewer_id", sort=False, observed=True):
        times, likes = (mine[name].astype("int64").tolist() for name in ("time", "liked_time"))
        complete = len(mine) <= offline.ROWS_KEPT
        kept = since if complete else times[-offline.ROWS_KEPT]
        moments = {*times, *likes, *([since] if complete else [])}
        found = sorted(moment for moment in moments if moment >= kept)
        rows += [(str(viewer), time, recomputed(mine, time, limits)) for time in found]
    return rows


def written(watches: pd.DataFrame, since: datetime, path: Path) -> list[tuple[str, int, Row]]:
    offline.write_viewer_activity(watches, since, path, lambda _done, _total: None)
    table = pq.read_table(path)
    names = ("history_times", "watched_keys", "watched_times", "watched_liked")
    columns = [table[name].to_pylist() for name in (*names, *COUNTS)]
    times = table["event_timestamp"].cast(pa.int64()).to_pylist()
    rows = zip(*columns, strict=True)
    return list(zip(table["viewer_id"].to_pylist(), times, rows, strict=True))


@pytest.mark.parametrize("at_a_time", [1000, 4_000_000])
@pytest.mark.parametrize("limits", [(HISTORY_LIMIT, WATCHED_LIMIT), (4, 9)])
def test_each_row_is_the_activity_after_all_that_happened_by_then(
    watches: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_a_time: int,
    limits: tuple[int, int],
) -> None:
    monkeypatch.setattr(offline, "_KEYS_AT_A_TIME", at_a_time)
    monkeypatch.setattr(offline, "HISTORY_LIMIT", limits[0])
    monkeypatch.setattr(offline, "WATCHED_LIMIT", limits[1])
    since = (watches["time"].min() - pd.Timedelta(seconds=1)).to_pydatetime()
    expected = expected_rows(watches, int(since.timestamp() * SECOND), limits)
    assert written(watches, since, tmp_path / "activity.parquet") == expected
    assert any(row[-1] for *_, row in expected)


def test_viewers_who_watched_much_are_written_a_few_at_a_time() -> None:
    heavy, light = np.full(500, 9000), np.full(100_000, 10)
    parts = list(offline._parts(np.concatenate([heavy, light])))
    assert [first for first, _ in parts] == [0, *(last for _, last in parts[:-1])]
    assert parts[-1][1] == 100_500
    sizes = [last - first for first, last in parts]
    assert max(sizes[:5]) < 100 < 10_000 < max(sizes)
