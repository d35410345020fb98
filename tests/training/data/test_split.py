from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vireo.training.data.split import Holdout, hidden_videos, split_watches

Row = tuple[Any, ...]


def interactions(*rows: Row, held_out: tuple[int, ...] = ()) -> pd.DataFrame:
    """Rows of (viewer, video, seconds[, event[, watched fraction[, rating]]])."""
    full = [(*row, *(("play", None, None)[len(row) - 3 :])) for row in rows]
    names = ["viewer_id", "video_id", "seconds", "event", "watched_fraction", "rating"]
    frame = pd.DataFrame(full, columns=names)
    stamps = pd.to_datetime(frame.pop("seconds"), unit="s", utc=True)
    frame["timestamp"] = stamps.astype("datetime64[us, UTC]")
    frame["row"] = range(1, len(frame) + 1)
    frame["held_out"] = [position in held_out for position in range(len(frame))]
    return frame.astype({"watched_fraction": "float32", "rating": "float32"})


def parts(frame: pd.DataFrame, holdout: Holdout = "last") -> dict[str, list[str]]:
    """Per viewer: "video:part" in order of time."""
    split = split_watches(frame, holdout)
    text = split["video_id"].astype(str) + ":" + split["part"].astype(str)
    viewers = split["viewer_id"].astype(str)
    return {str(viewer): group.tolist() for viewer, group in text.groupby(viewers)}


def seconds(times: pd.Series) -> list[float | None]:
    return [None if pd.isna(time) else time.timestamp() for time in times]


def test_the_last_watch_is_test_and_the_one_before_validation() -> None:
    frame = interactions(
        ("b", "1", 30), ("a", "1", 10), ("a", "2", 20), ("a", "3", 30), ("b", "2", 10)
    )
    assert parts(frame) == {
        "a": ["1:train", "2:validation", "3:test"],
        "b": ["2:train", "1:train"],
    }
    assert parts(frame, "none") == {
        "a": ["1:train", "2:train", "3:train"],
        "b": ["2:train", "1:train"],
    }


def test_of_ten_watches_before_the_test_two_are_for_validation_of_nine_one() -> None:
    frame = interactions(
        *[("a", str(step), step) for step in range(11)],
        *[("b", str(step), step) for step in range(10)],
    )
    assert parts(frame)["a"][7:] == ["7:train", "8:validation", "9:validation", "10:test"]
    assert parts(frame)["b"][7:] == ["7:train", "8:validation", "9:test"]
    assert parts(frame, "none")["b"][7:] == ["7:train", "8:train", "9:train"]


def test_watches_of_one_time_follow_the_file_a_microsecond_apart() -> None:
    frame = interactions(
        ("a", "3", 10), ("a", "1", 10), ("b", "1", 10), ("a", "2", 10), ("a", "4", 10.000001)
    )
    assert parts(frame)["a"] == ["3:train", "1:train", "2:validation", "4:test"]
    split = split_watches(frame, "last")
    assert seconds(split["time"]) == [10, 10.000001, 10.000002, 10.000003, 10]


def test_only_the_first_watch_of_a_video_counts() -> None:
    frame = interactions(("a", "1", 10), ("a", "2", 20), ("a", "1", 30), ("a", "3", 40))
    assert parts(frame)["a"] == ["1:train", "2:validation", "3:test"]


def test_a_packaged_test_part_is_kept_unless_nothing_is_held_out() -> None:
    rows = [("a", "1", 10), ("a", "2", 20), ("a", "3", 30), ("a", "4", 30), ("b", "1", 5)]
    frame = interactions(*rows, held_out=(2, 4))
    assert parts(frame) == {
        "a": ["1:train", "2:train", "3:test", "4:validation"],
        "b": ["1:test"],
    }
    assert parts(frame, "none")["a"] == ["1:train", "2:train", "3:train", "4:train"]


def test_hiding_a_video_or_seeing_its_picture_is_no_watch() -> None:
    frame = interactions(("a", "1", 1, "hide"), ("a", "2", 2), ("a", "3", 3, "impression"))
    assert parts(frame) == {"a": ["2:train"]}


def test_a_rating_decides_whether_its_row_is_a_like() -> None:
    rows = [("a", "1", 1, "play", 1.0, 3.5), ("a", "2", 2, "play", 0.1, 4), ("a", "3", 3, "like")]
    assert split_watches(interactions(*rows), "none")["liked"].tolist() == [0, 1, 1]


def test_without_a_rating_what_was_watched_to_the_end_is_liked() -> None:
    rows = [("a", "1", 1, "play", 0.79), ("a", "2", 2, "play", 0.8), ("a", "3", 3, "like", 0.1)]
    assert split_watches(interactions(*rows), "none")["liked"].tolist() == [0, 1, 1]


def test_one_rating_among_plays_changes_nothing_else() -> None:
    plays = [("a", "1", 1, "play", 0.9), ("a", "2", 2, "play", 0.2), ("b", "1", 1, "play", 1.0)]
    rated = ("b", "2", 2, "play", 0.9, 1)
    split = split_watches(interactions(*plays, rated), "none")
    assert split["liked"].tolist() == [1, 0, 1, 0]
    assert split_watches(interactions(*plays), "none")["liked"].tolist() == [1, 0, 1]


def test_a_like_of_which_nothing_is_known_is_unknown() -> None:
    plays = [("a", "1", 1), ("a", "2", 2, "play", 0.9), ("a", "3", 3, "play", None, 2)]
    liked = split_watches(interactions(*plays), "none")["liked"]
    assert liked.isna().tolist() == [True, False, False]
    # Where viewers can like, a play without a like says something.
    liked = split_watches(interactions(*plays, ("b", "1", 1, "like")), "none")["liked"]
    assert liked.tolist() == [0, 1, 0, 1]


def test_a_watch_to_the_end_is_finished_if_that_is_known() -> None:
    rows = [("a", "1", 1, "play", 0.9), ("a", "2", 2, "play", 0.89), ("a", "3", 3)]
    later = [("a", "2", 9, "play", 1.0), ("a", "3", 9, "play", 1.0)]
    finished = split_watches(interactions(*rows), "last")["finished"]
    assert finished.fillna(-1).tolist() == pytest.approx([1, 0, -1])
    # Before the test watch, what comes later hasn't happened yet.
    assert split_watches(interactions(*rows, *later), "last")["finished"].tolist() == [1, 0, 1]
    assert split_watches(interactions(*rows, *later), "none")["finished"].tolist() == [1, 1, 1]


def test_a_play_that_ends_in_a_hide_is_no_watch() -> None:
    frame = interactions(
        ("a", "1", 1),
        ("a", "2", 2),
        ("a", "2", 3, "hide"),
        ("a", "3", 4),
        ("a", "4", 5),
        ("a", "5", 6),
        ("a", "5", 7, "hide"),
        ("b", "2", 8),
    )
    assert parts(frame) == {"a": ["1:train", "3:validation", "4:test"], "b": ["2:train"]}


def test_a_hide_after_the_test_watch_is_unknown_before_it() -> None:
    rows = [("a", str(step), step) for step in range(1, 6)]
    frame = interactions(*rows, ("a", "2", 9, "hide"), ("a", "5", 9, "hide"))
    assert parts(frame) == {"a": ["1:train", "2:train", "3:validation", "4:test"]}
    assert parts(frame, "none") == {"a": ["1:train", "3:train", "4:train"]}


def hidden(frame: pd.DataFrame, holdout: Holdout = "last") -> list[tuple[str, str, float]]:
    """(viewer, video, second) of each video that was hidden."""
    found = hidden_videos(frame, split_watches(frame, holdout))
    assert found["liked"].isna().all()
    assert found["finished"].isna().all()
    times = [time.timestamp() for time in found["time"]]
    return list(zip(found["viewer_id"], found["video_id"], times, strict=True))


def test_hidden_videos_have_the_time_at_which_they_were_first_played_or_hidden() -> None:
    frame = interactions(
        ("a", "1", 1),
        ("a", "5", 2, "impression"),
        ("a", "2", 3),
        ("a", "2", 4, "like"),
        ("a", "3", 5),
        ("a", "4", 6),
        ("a", "2", 5, "hide"),
        ("a", "5", 4, "hide"),
        ("a", "5", 5, "hide"),
        ("b", "2", 8, "hide"),
        ("b", "1", 7, "hide"),
        ("b", "1", 9),
    )
    expected = [("a", "2", 3), ("a", "5", 4), ("b", "1", 7), ("b", "2", 8)]
    assert hidden(frame) == hidden(frame, "none") == expected
    watched = split_watches(frame, "last")
    assert set(watched["video_id"]) == {"1", "3", "4"}
    columns = hidden_videos(frame, watched).columns
    assert columns.tolist() == watched.columns.tolist()


def test_a_hide_since_the_test_watch_is_no_label_if_that_is_held_out() -> None:
    rows = [("a", str(step), step) for step in range(1, 6)]
    frame = interactions(*rows, ("a", "2", 4, "hide"), ("a", "3", 5, "hide"), ("a", "9", 6, "hide"))
    assert hidden(frame) == [("a", "2", 2)]
    assert hidden(frame, "none") == [("a", "2", 2), ("a", "3", 3), ("a", "9", 6)]


def test_data_without_hides_has_no_hidden_videos() -> None:
    frame = interactions(*[("a", str(step), step) for step in range(5)])
    assert hidden(frame) == []
    assert hidden(frame.assign(device="tv", time_zone="Europe/Zurich", locale="de")) == []


def test_what_stays_a_watch_is_not_hidden_at_once() -> None:
    rows = [("a", "1", 1), ("a", "2", 2), ("a", "3", 3), ("a", "4", 3), ("a", "1", 3, "hide")]
    frame = interactions(*rows)
    assert parts(frame) == {"a": ["1:train", "2:train", "3:validation", "4:test"]}
    assert hidden(frame) == []


def test_a_bounce_is_no_watch() -> None:
    frame = interactions(("a", "1", 1, "bounce", 0.01), ("a", "2", 2), ("a", "1", 3, "play", 0.5))
    assert parts(frame) == {"a": ["2:train", "1:train"]}


def test_a_later_like_is_known_from_its_own_time_on() -> None:
    split = split_watches(
        interactions(
            ("a", "1", 10), ("a", "2", 10, "like"), ("a", "1", 15, "like"), ("a", "3", 20)
        ),
        "none",
    )
    assert split["liked"].tolist() == [True, True, False]
    assert seconds(split["liked_time"]) == [15, 10.000001, None]


def test_a_like_after_the_test_watch_is_not_known_before_it() -> None:
    split = split_watches(
        interactions(
            ("a", "1", 10),
            ("a", "2", 20),
            ("a", "3", 30),
            ("a", "1", 40, "like"),
            ("a", "3", 50, "like"),
        ),
        "last",
    )
    assert split["liked"].tolist() == [False, False, True]


def test_the_splits_memory_is_a_few_numbers_per_interaction() -> None:
    random, count = np.random.default_rng(0), 50_000
    frame = pd.DataFrame(
        {
            "viewer_id": pd.Categorical([f"a-viewer-{n}" for n in random.integers(0, 5000, count)]),
            "video_id": pd.Categorical([f"a-video-{n}" for n in random.integers(0, 5000, count)]),
            "timestamp": pd.date_range("2024-01-01", periods=count, freq="s", tz="UTC", unit="us"),
            "row": np.arange(count),
            "event": pd.Categorical(["play"] * count),
            "watched_fraction": random.random(count).astype("float32"),
            "rating": np.full(count, np.nan, "float32"),
            "held_out": np.zeros(count, bool),
        }
    )
    tracemalloc.start()
    split = split_watches(frame, "last")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(split) > 0.9 * count
    assert peak < 130 * count
