"""The offline rows, made by column, against the activity that each event leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Watch:
    """One video watched by one viewer."""

    video_id: str
    time: int
    """Unix microseconds."""
    liked: bool


@dataclass(frozen=True)
class Activity:
    """The activity features of one viewer after some event; the default is before any."""

    history_times: tuple[int, ...] = ()
    watched_keys: tuple[int, ...] = ()
    watched_times: tuple[int, ...] = ()
    watched_liked: tuple[bool, ...] = ()
    watch_count: int = 0
    like_count: int = 0

    def after(self, watch: Watch, limits: tuple[int, int]) -> Activity:
        """Return the activity once `watch` has happened."""
        history, watched = limits
        return Activity(
            history_times=(*self.history_times, watch.time // SECOND)[-history:],
            watched_keys=(*self.watched_keys, video_key(watch.video_id))[-watched:],
            watched_times=(*self.watched_times, watch.time)[-watched:],
            watched_liked=(*self.watched_liked, watch.liked)[-watched:],
            watch_count=self.watch_count + 1,
            like_count=self.like_count + int(watch.liked),
        )

    def after_like(self, watched_time: int) -> Activity:
        """Return the activity once the video that was watched at a time has been liked."""
        pairs = zip(self.watched_times, self.watched_liked, strict=True)
        liked = tuple(known or time == watched_time for time, known in pairs)
        return replace(self, watched_liked=liked, like_count=self.like_count + 1)


@pytest.fixture(scope="module")
def watches() -> pd.DataFrame:
    interactions = random_interactions()
    moments = interactions["timestamp"].astype("datetime64[us, UTC]")
    interactions["timestamp"] = moments
    split = split_watches(interactions, "last")
    return split[split["part"] != "test"]


def folded(
    watches: pd.DataFrame, since: int, limits: tuple[int, int]
) -> list[tuple[str, int, Activity]]:
    """Return every row, one event after the other."""
    rows = []
    for viewer, mine in watches.groupby("viewer_id", sort=False, observed=True):
        events: list[tuple[int, Watch | int]] = []
        times, likes = (mine[name].astype("int64").tolist() for name in ("time", "liked_time"))
        for video_id, time, liked in zip(mine["video_id"], times, likes, strict=True):
            events.append((time, Watch(video_id, time, liked == time)))
            if liked > time:
                events.append((liked, time))
        events.sort(key=lambda event: event[0])
        complete = len(mine) <= offline.ROWS_KEPT
        kept = since if complete else times[-offline.ROWS_KEPT]
        activity = Activity()
        after = {since: activity} if complete else {}
        for time, happened in events:
            if isinstance(happened, Watch):
                activity = activity.after(happened, limits)
            else:
                activity = activity.after_like(happened)
            if time >= kept:
                after[time] = activity
        rows += [(str(viewer), time, state) for time, state in after.items()]
    return rows


def written(watches: pd.DataFrame, since: datetime, path: Path) -> list[tuple[str, int, Activity]]:
    offline.write_viewer_activity(watches, since, path, lambda _done, _total: None)
    table = pq.read_table(path)
    times = table["event_timestamp"].cast(pa.int64()).to_pylist()
    return [
        (
            row["viewer_id"],
            time,
            Activity(
                tuple(row["history_times"]),
                tuple(row["watched_keys"]),
                tuple(row["watched_times"]),
                tuple(row["watched_liked"]),
                row["viewer_watch_count"],
                row["viewer_like_count"],
            ),
        )
        for row, time in zip(table.drop_columns("event_timestamp").to_pylist(), times, strict=True)
    ]


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
    expected = folded(watches, int(since.timestamp() * SECOND), limits)
    assert written(watches, since, tmp_path / "activity.parquet") == expected
    assert any(activity.like_count for *_, activity in expected)


def test_viewers_who_watched_much_are_written_a_few_at_a_time() -> None:
    heavy, light = np.full(500, 9000), np.full(100_000, 10)
    parts = list(offline._parts(np.concatenate([heavy, light])))
    assert [first for first, _ in parts] == [0, *(last for _, last in parts[:-1])]
    assert parts[-1][1] == 100_500
    sizes = [last - first for first, last in parts]
    assert max(sizes[:5]) < 100 < 10_000 < max(sizes)
