from __future__ import annotations

from typing import Any

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


def steps(viewer: str, count: int, first: int = 0) -> list[Row]:
    return [(viewer, str(step), step) for step in range(first, first + count)]


def parts(frame: pd.DataFrame, holdout: Holdout = "last") -> dict[str, str]:
    """Per viewer: videos in order of time, those for validation with ?, those for test with !."""
    split = split_watches(frame, holdout)
    marks = split["part"].astype(str).map({"train": "", "validation": "?", "test": "!"})
    text = split["video_id"].astype(str) + marks
    groups = text.groupby(split["viewer_id"].astype(str))
    return {str(viewer): " ".join(group) for viewer, group in groups}


@pytest.mark.parametrize(
    ("rows", "last", "none"),
    [
        (
            [("b", "1", 30), ("a", "1", 10), ("a", "2", 20), ("a", "3", 30), ("b", "2", 10)],
            {"a": "1 2? 3!", "b": "2 1"},
            {"a": "1 2 3", "b": "2 1"},
        ),
        # Of ten watches before the test two are for validation, of nine one.
        (
            [*steps("a", 11), *steps("b", 10)],
            {"a": "0 1 2 3 4 5 6 7 8? 9? 10!", "b": "0 1 2 3 4 5 6 7 8? 9!"},
            {"a": "0 1 2 3 4 5 6 7 8 9 10", "b": "0 1 2 3 4 5 6 7 8 9"},
        ),
        # The first watch of a video counts.
        (
            [("a", "1", 10), ("a", "2", 20), ("a", "1", 30), ("a", "3", 40)],
            {"a": "1 2? 3!"},
            {"a": "1 2 3"},
        ),
        # A hide, a picture and a bounce are no watches.
        (
            [
                ("a", "1", 1, "hide"),
                ("a", "2", 2),
                ("a", "3", 3, "impression"),
                ("b", "1", 1, "bounce", 0.01),
                ("b", "2", 2),
                ("b", "1", 3, "play", 0.5),
            ],
            {"a": "2", "b": "2 1"},
            {"a": "2", "b": "2 1"},
        ),
        # Nor is a play that ends in a hide.
        (
            [
                *steps("a", 2, 1),
                ("a", "2", 3, "hide"),
                *steps("a", 3, 3),
                ("a", "5", 7, "hide"),
                ("b", "2", 8),
            ],
            {"a": "1 3? 4!", "b": "2"},
            {"a": "1 3 4", "b": "2"},
        ),
        # A hide after the test watch is unknown before it.
        (
            [*steps("a", 5, 1), ("a", "2", 9, "hide"), ("a", "5", 9, "hide")],
            {"a": "1 2 3? 4!"},
            {"a": "1 3 4"},
        ),
        (
            [("a", "1", 1), ("a", "2", 2), ("a", "3", 3), ("a", "4", 3), ("a", "1", 3, "hide")],
            {"a": "1 2 3? 4!"},
            {"a": "2 3 4"},
        ),
    ],
)
def test_the_last_watch_is_test_and_those_before_it_validation(
    rows: list[Row], last: dict[str, str], none: dict[str, str]
) -> None:
    assert parts(interactions(*rows)) == last
    assert parts(interactions(*rows), "none") == none


def test_a_packaged_test_part_is_kept_unless_nothing_is_held_out() -> None:
    rows = [("a", "1", 10), ("a", "2", 20), ("a", "3", 30), ("a", "4", 30), ("b", "1", 5)]
    frame = interactions(*rows, held_out=(2, 4))
    assert parts(frame) == {"a": "1 2 3! 4?", "b": "1!"}
    assert parts(frame, "none")["a"] == "1 2 3 4"


def seconds(times: pd.Series) -> list[float | None]:
    return [None if pd.isna(time) else time.timestamp() for time in times]


def test_watches_of_one_time_follow_the_file_a_microsecond_apart() -> None:
    frame = interactions(
        ("a", "3", 10), ("a", "1", 10), ("b", "1", 10), ("a", "2", 10), ("a", "4", 10.000001)
    )
    assert parts(frame)["a"] == "3 1 2? 4!"
    times = split_watches(frame, "last")["time"]
    assert seconds(times) == [10, 10.000001, 10.000002, 10.000003, 10]


RATED = [("a", "1", 1, "play", 1.0, 3.5), ("a", "2", 2, "play", 0.1, 4), ("a", "3", 3, "like")]
WATCHED = [("a", "1", 1, "play", 0.79), ("a", "2", 2, "play", 0.8), ("a", "3", 3, "like", 0.1)]
PLAYS = [("a", "1", 1, "play", 0.9), ("a", "2", 2, "play", 0.2), ("b", "1", 1, "play", 1.0)]
VAGUE = [("a", "1", 1), ("a", "2", 2, "play", 0.9), ("a", "3", 3, "play", None, 2)]


@pytest.mark.parametrize(
    ("rows", "liked"),
    [
        # A rating decides, else the fraction, else whether viewers can like.
        (RATED, [0, 1, 1]),
        (WATCHED, [0, 1, 1]),
        (PLAYS, [1, 0, 1]),
        ([*PLAYS, ("b", "2", 2, "play", 0.9, 1)], [1, 0, 1, 0]),
        (VAGUE, [-1, 1, 0]),
        ([*VAGUE, ("b", "1", 1, "like")], [0, 1, 0, 1]),
    ],
)
def test_a_like_is_what_the_data_knows_of_it(rows: list[Row], liked: list[int]) -> None:
    found = split_watches(interactions(*rows), "none")["liked"]
    assert found.fillna(-1).tolist() == liked


def test_a_later_like_is_known_from_its_own_time_on_and_not_before_the_test_watch() -> None:
    rows = [("a", "1", 10), ("a", "2", 10, "like"), ("a", "1", 15, "like"), ("a", "3", 20)]
    split = split_watches(interactions(*rows), "none")
    assert split["liked"].tolist() == [1, 1, 0]
    assert seconds(split["liked_time"]) == [15, 10.000001, None]
    late = [("a", "1", 40, "like"), ("a", "3", 50, "like")]
    rows = [("a", "1", 10), ("a", "2", 20), ("a", "3", 30), *late]
    assert split_watches(interactions(*rows), "last")["liked"].tolist() == [0, 0, 1]


def test_a_watch_to_the_end_is_finished_if_that_is_known() -> None:
    rows = [("a", "1", 1, "play", 0.9), ("a", "2", 2, "play", 0.89), ("a", "3", 3)]
    later = [("a", "2", 9, "play", 1.0), ("a", "3", 9, "play", 1.0)]
    finished = split_watches(interactions(*rows), "last")["finished"]
    assert finished.fillna(-1).tolist() == pytest.approx([1, 0, -1])
    # Before the test watch, what comes later hasn't happened yet.
    assert split_watches(interactions(*rows, *later), "last")["finished"].tolist() == [1, 0, 1]
    assert split_watches(interactions(*rows, *later), "none")["finished"].tolist() == [1, 1, 1]


def hidden(frame: pd.DataFrame, holdout: Holdout = "last") -> list[tuple[str, str, float]]:
    """(viewer, video, second) of each video that was hidden."""
    watches = split_watches(frame, holdout)
    found = hidden_videos(frame, watches)
    assert found.columns.tolist() == watches.columns.tolist()
    assert found[["liked", "finished"]].isna().all().all()
    times = [time.timestamp() for time in found["time"]]
    return list(zip(found["viewer_id"], found["video_id"], times, strict=True))


@pytest.mark.parametrize(
    ("rows", "last", "none"),
    [
        # The time is that of the first play or hide.
        (
            [
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
            ],
            [("a", "2", 3), ("a", "5", 4), ("b", "1", 7), ("b", "2", 8)],
            [("a", "2", 3), ("a", "5", 4), ("b", "1", 7), ("b", "2", 8)],
        ),
        # A hide since the test watch is no label if that is held out.
        (
            [
                *steps("a", 5, 1),
                ("a", "2", 4, "hide"),
                ("a", "3", 5, "hide"),
                ("a", "9", 6, "hide"),
            ],
            [("a", "2", 2)],
            [("a", "2", 2), ("a", "3", 3), ("a", "9", 6)],
        ),
        (steps("a", 5), [], []),
        # What stays a watch is not hidden as well.
        (
            [("a", "1", 1), ("a", "2", 2), ("a", "3", 3), ("a", "4", 3), ("a", "1", 3, "hide")],
            [],
            [("a", "1", 1)],
        ),
    ],
)
def test_hidden_videos_are_no_watches_from_the_first_play_or_hide_on(
    rows: list[Row], last: list[Row], none: list[Row]
) -> None:
    frame = interactions(*rows)
    for given in (frame, frame.assign(device="tv", time_zone="Europe/Zurich", locale="de")):
        assert (hidden(given), hidden(given, "none")) == (last, none)
