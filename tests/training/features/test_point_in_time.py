"""Features of a moment against what is recomputed, the slow way, from the watches themselves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vireo.server.features.keys import video_key
from vireo.server.features.online_store import read_viewer
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.home import Home
from vireo.training.data.dataset import load_dataset
from vireo.training.data.split import split_watches
from vireo.training.features import viewers as past
from vireo.training.features.statistics import (
    latest,
    snapshot_moments,
    video_features_at,
)
from vireo.training.features.viewers import PastViewers

MICROSECOND = pd.Timedelta(microseconds=1)


def at(repo: Path, viewers: pd.Series, moments: pd.Series | pd.Timestamp) -> list[ViewerFeatures]:
    """Return what was known of viewers at some moments."""
    frame = pd.DataFrame({"viewer_id": viewers, "time": moments + MICROSECOND})
    return PastViewers(repo).before(frame)


def recomputed(watches: pd.DataFrame, viewer: str, moment: pd.Timestamp) -> ViewerFeatures:
    """A viewer's activity at a moment, from the rows of the watches alone."""
    mine = watches[(watches["viewer_id"] == viewer) & (watches["part"] != "test")]
    seen = mine[mine["time"] <= moment]
    keys = np.array([video_key(video) for video in seen["video_id"]], np.int64)
    times = np.array([int(time.timestamp()) for time in seen["time"]], np.int64)
    likes = int((seen["liked_time"] <= moment).sum())
    return ViewerFeatures(keys, times, keys, (), len(seen), likes)


def assert_same_activity(found: ViewerFeatures, expected: ViewerFeatures) -> None:
    np.testing.assert_array_equal(found.history_keys, expected.history_keys)
    np.testing.assert_array_equal(found.history_times, expected.history_times)
    np.testing.assert_array_equal(found.watched_keys, expected.watched_keys)
    assert (found.watch_count, found.like_count) == (expected.watch_count, expected.like_count)


def test_a_labels_features_are_of_just_before_it(repo: Path, watches: pd.DataFrame) -> None:
    together = watches.groupby("viewer_id")["time"].diff() == MICROSECOND
    assert together.sum() > 5, "some labels come right after others of the same second"
    labels = watches.sample(frac=1, random_state=0)
    found = PastViewers(repo).before(labels)
    assert len(found) == len(labels) > 150
    for label, features in zip(labels.itertuples(), found, strict=True):
        moment = pd.Timestamp(str(label.time))
        before = recomputed(watches, str(label.viewer_id), moment - MICROSECOND)
        assert_same_activity(features, before)
        assert features.asked_at == int(moment.timestamp())


def test_a_late_like_counts_from_its_own_time_on(repo: Path, watches: pd.DataFrame) -> None:
    seen = watches[watches["part"] != "test"]
    late = seen[seen["liked_time"] > seen["time"]]
    assert len(late) > 3
    likes = []
    for moments in (late["liked_time"] - MICROSECOND, late["liked_time"]):
        found = at(repo, late["viewer_id"], moments)
        for viewer, moment, features in zip(late["viewer_id"], moments, found, strict=True):
            assert_same_activity(features, recomputed(watches, viewer, moment))
        likes.append(np.array([features.like_count for features in found]))
    np.testing.assert_array_equal(likes[0] + 1, likes[1])


def test_offline_now_and_online_are_the_same(home: Home, repo: Path, watches: pd.DataFrame) -> None:
    viewers = load_dataset(home, "small").viewers
    now = pd.Timestamp("2030-01-01", tz="UTC")
    offline = at(repo, viewers["viewer_id"], now)
    for viewer, features in zip(viewers.itertuples(), offline, strict=True):
        online = read_viewer(repo, str(viewer.viewer_id))
        assert list(online.history_keys) == features.history_keys.tolist()
        assert list(online.history_times) == features.history_times.tolist()
        assert list(online.watched_keys) == features.watched_keys.tolist()
        assert online.watch_count == features.watch_count
        assert online.like_count == features.like_count
        assert (
            tuple(online.attributes) == features.attributes == tuple(np.asarray(viewer.attributes))
        )
        assert_same_activity(features, recomputed(watches, str(viewer.viewer_id), now))


def test_an_unknown_viewer_gets_the_default(repo: Path) -> None:
    names, now = pd.Series(["nobody", "w3", "w40"]), pd.Timestamp("2030-01-01", tz="UTC")
    stranger, known, idle = at(repo, names, now)
    assert_same_activity(stranger, ViewerFeatures())
    assert stranger.attributes == ()
    assert known.watch_count > 0
    assert_same_activity(idle, ViewerFeatures())
    assert idle.attributes == ("plan=free", "group=1")
    assert not read_viewer(repo, "nobody").history_keys
    assert at(repo, names[:0], now) == []


def test_lists_end_at_their_limits_and_counts_do_not(
    repo: Path,
    watches: pd.DataFrame,
    interactions: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(past, "HISTORY_LIMIT", 4)
    monkeypatch.setattr(past, "WATCHED_LIMIT", 9)
    split = split_watches(interactions, "last")
    past.write_viewer_activity(split[split["part"] != "test"], tmp_path)
    rows = pd.read_parquet(tmp_path / "viewer_activity.parquet")
    now = pd.Timestamp("2030-01-01", tz="UTC")
    assert rows["viewer_like_count"].any()
    written: Iterable[Any] = rows.itertuples()
    for row, then in zip(written, at(repo, rows["viewer_id"], now), strict=True):
        expected = recomputed(watches, str(row.viewer_id), now)
        for keys in (row.watched_keys, then.watched_keys):
            np.testing.assert_array_equal(keys, expected.watched_keys[-9:])
        for times in (row.history_times, then.history_times, row.watched_times[-4:] // 1_000_000):
            np.testing.assert_array_equal(times, expected.history_times[-4:])
        assert row.viewer_watch_count == then.watch_count == expected.watch_count
        assert row.viewer_like_count == then.like_count == expected.like_count


def statistics_recomputed(
    home: Home, watches: pd.DataFrame, video: str, moment: pd.Timestamp
) -> list[float]:
    """VIDEO_FEATURES of a video at a moment, from the rows of the watches alone."""
    seen = watches[(watches["video_id"] == video) & (watches["part"] != "test")]
    seen = seen[seen["time"] <= moment]
    ages = (moment - seen["time"]).dt.total_seconds() / 86_400
    likes = int((seen["liked_time"] <= moment).sum())
    videos = load_dataset(home, "small").videos.set_index("video_id")
    published = videos["published"][video]
    since = published if published <= moment else seen["time"].min()
    age = 0.0 if pd.isna(since) else (moment - since).total_seconds() / 86_400
    return [
        np.log1p(len(seen)),
        np.log1p((0.5 ** (ages / 30)).sum()),
        (likes + 2.5) / (len(seen) + 5),
        np.log1p(age),
    ]


def statistics_at(repo: Path, moments: pd.DataFrame) -> np.ndarray:
    """Return the features of `video_id` at `event_timestamp`, float32[n, 4]."""
    rows, ids = pd.factorize(moments["video_id"])
    times = moments["event_timestamp"].to_numpy("datetime64[us]")
    return video_features_at(repo, list(ids), rows[:, None], times)[:, 0]


def snapshots(repo: Path) -> list[pd.Timestamp]:
    table = pd.read_parquet(repo / "video_statistics.parquet", columns=["event_timestamp"])
    return sorted(table["event_timestamp"].unique())


def test_video_statistics_are_those_of_the_last_snapshot_before(
    home: Home, repo: Path, watches: pd.DataFrame
) -> None:
    random = np.random.default_rng(0)
    known = snapshots(repo)
    chosen = [int(n) for n in random.integers(0, len(known), 60)]
    videos = [f"v{n}" for n in random.integers(0, 60, 60)]
    moments = [known[n] + pd.Timedelta(microseconds=int(n % 2) * 7) for n in chosen]
    found = statistics_at(repo, pd.DataFrame({"video_id": videos, "event_timestamp": moments}))
    expected = [
        statistics_recomputed(home, watches, video, known[n])
        for video, n in zip(videos, chosen, strict=True)
    ]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-5, atol=1e-5)


def test_snapshots_are_many_and_end_with_the_last_watch(repo: Path, watches: pd.DataFrame) -> None:
    seen = watches[watches["part"] != "test"]
    known = snapshots(repo)
    assert 40 < len(known) <= 65
    assert known[0] == seen["time"].min()
    assert known[-1] == seen["time"].max()


def test_an_unwatched_video_has_only_priors(repo: Path, watches: pd.DataFrame) -> None:
    early = watches["time"].min() - pd.Timedelta(days=400)
    now = pd.Timestamp("2030-01-01", tz="UTC")
    moments = pd.DataFrame({"video_id": ["v1", "nothing"], "event_timestamp": [early, now]})
    np.testing.assert_array_equal(statistics_at(repo, moments), [[0, 0, 0.5, 0]] * 2)
    assert statistics_at(repo, moments[:0]).shape == (0, 4)


def test_the_latest_statistics_are_those_of_the_last_snapshot(
    home: Home, repo: Path, watches: pd.DataFrame
) -> None:
    ids = [f"v{n}" for n in range(60)]
    last = snapshots(repo)[-1]
    found, popularity = latest(repo, ids)
    expected = [statistics_recomputed(home, watches, video, last) for video in ids]
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[:, 1], np.log1p(popularity), rtol=1e-6)


def test_a_large_catalogue_has_fewer_snapshots() -> None:
    times = np.arange(1_000)
    assert len(snapshot_moments(times, 1_000)) == 65
    assert len(snapshot_moments(times, 1_000_000)) == 17
    assert len(snapshot_moments(times, 50_000_000)) == 9
