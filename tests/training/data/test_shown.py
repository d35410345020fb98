"""Which event belongs to which shown video, and what is then known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import archiving
from tests.builders.shown import after, event, files_of, slate, write_archive
from vireo.server.consumer.archived_rows import KINDS, parquet_of, table_of
from vireo.server.event_log.log import Entry
from vireo.training.data.shown import IMPRESSIONS, WINDOW_SECONDS, shown_videos
from vireo.v1.event_pb2 import EVENT_KIND_LIKE, Event
from vireo.v1.log_pb2 import RecordedEvents

Row = Mapping[str, Any]
DAY = WINDOW_SECONDS


@pytest.fixture
def rows_of(tmp_path: Path) -> Any:
    """Returns the rows of shown videos, by request and video."""

    def joined(
        slates: Sequence[Row], events: Sequence[Row], **options: Any
    ) -> dict[tuple[str, str], Row]:
        write_archive(tmp_path, slates, events)
        files = files_of(tmp_path, "slates"), files_of(tmp_path, "events")
        rows = shown_videos(*files, **options).to_pylist()
        return {(row["request_id"], row["video_id"]): row for row in rows}

    return joined


def played(rows: Mapping[tuple[str, str], Row]) -> set[tuple[str, str]]:
    return {key for key, row in rows.items() if row["played"]}


def test_an_event_with_a_request_id_belongs_to_that_slate_alone(rows_of: Any) -> None:
    slates = [slate("a", "1", "x y"), slate("b", "1", "x y", 10), slate("c", "2", "x", 10)]
    assert played(rows_of(slates, [event("play", "1", "x", 20, "a")])) == {("a", "x")}


def test_an_event_without_a_request_id_belongs_to_the_latest_slate_alone(rows_of: Any) -> None:
    slates = [
        slate("late", "1", "x", 30),
        slate("a", "1", "x y"),
        slate("b", "1", "y x", 10),
        slate("c", "1", "y", 15),
        slate("d", "2", "x", 15),
    ]
    assert played(rows_of(slates, [event("play", "1", "x", 20)])) == {("b", "x")}


def test_an_event_of_an_unknown_request_belongs_to_no_slate(rows_of: Any) -> None:
    slates = [slate("a", "1", "x"), slate("b", "1", "x", 10)]
    assert played(rows_of(slates, [event("play", "1", "x", 20, "lost")])) == set()


@pytest.mark.parametrize(
    ("seconds", "request_id", "belongs"),
    [
        (DAY, "", True),
        (DAY + 1, "", False),
        (DAY + 1, "a", True),
        (0, "", True),
        (-1, "", False),
        (-60, "a", True),
        (-61, "a", False),
        (1, "lost", False),
    ],
)
def test_events_belong_to_slates_before_them_within_a_window(
    rows_of: Any, seconds: float, request_id: str, belongs: bool
) -> None:
    rows = rows_of([slate("a", "1", "x")], [event("play", "1", "x", seconds, request_id)])
    assert rows["a", "x"]["played"] == belongs


def test_a_shorter_window_leaves_out_later_events(rows_of: Any) -> None:
    events = [event("play", "1", "x", 9), event("like", "1", "x", 11)]
    row = rows_of([slate("a", "1", "x")], events, window=10)["a", "x"]
    assert (row["played"], row["liked"]) == (True, False)


def test_a_request_of_another_viewer_or_without_the_video_takes_no_event(rows_of: Any) -> None:
    slates = [slate("a", "1", "x"), slate("b", "2", "y")]
    events = [event("play", "1", "y", 1, "b"), event("play", "2", "x", 1, "b")]
    assert played(rows_of(slates, events)) == set()


def test_of_events_with_the_same_id_the_last_counts(rows_of: Any) -> None:
    events = [
        event("play", "1", "x", 5, event_id="e", watched_seconds=9.0, received_at=after(7)),
        event("play", "1", "x", 5, event_id="e", watched_seconds=4.0, received_at=after(6)),
        event("play", "2", "x", 5, event_id="e", watched_seconds=2.0),
    ]
    rows = rows_of([slate("a", "1", "x"), slate("b", "2", "x")], events)
    assert rows["a", "x"]["watched_seconds"] == 9
    assert rows["b", "x"]["watched_seconds"] == 2


def test_of_slates_with_the_same_request_id_the_first_counts(rows_of: Any) -> None:
    rows = rows_of([slate("a", "1", "y", 5), slate("a", "1", "x")], [event("play", "1", "x", 9)])
    assert list(rows) == [("a", "x")]
    assert played(rows) == {("a", "x")}


def test_without_impressions_all_that_was_shown_counts_as_seen(tmp_path: Path) -> None:
    write_archive(tmp_path, [slate("a", "1", "x y")], [event("play", "1", "x")])
    slates = files_of(tmp_path, "slates")
    for events in ([], files_of(tmp_path, "events")):
        shown = shown_videos(slates, events)
        assert shown["seen"].to_pylist() == [True, True]
        assert shown.schema.metadata[IMPRESSIONS] == b"none"
    # Of a viewer whose slates aren't recorded.
    write_archive(tmp_path, [], [event("impression", "9", "x")])
    shown = shown_videos(slates, files_of(tmp_path, "events"))
    assert shown["seen"].to_pylist() == [False, False]
    assert shown.schema.metadata[IMPRESSIONS] == b"reported"


def test_each_kind_of_event_is_an_outcome(rows_of: Any) -> None:
    videos = "shown played twice finished whole liked hidden unwanted followed"
    events = [
        event("impression", "1", "shown", 1, "a"),
        event("play", "1", "played", 2, "a"),
        event("play", "1", "twice", 3, "a", watched_seconds=3.0, watched_fraction=0.5),
        event("play", "1", "twice", 9, watched_seconds=4.0, watched_fraction=0.25),
        event("finish", "1", "finished", 4, "a"),
        event("play", "1", "whole", 4, "a", watched_fraction=1.0),
        event("like", "1", "liked", 5, "a"),
        event("hide", "1", "hidden", 6, "a"),
        event("not_interested", "1", "unwanted", 7, "a"),
        event("follow", "1", "", 8, "a", position=9),
        event("follow", "1", "", 8, "a"),
        event("follow", "1", "elsewhere", 8, "a", position=1),
    ]
    rows = rows_of([slate("a", "1", videos)], events)
    found = {
        outcome: [video for (_, video), row in rows.items() if row[outcome]]
        for outcome in ("seen", "played", "finished", "liked", "hidden", "followed")
    }
    assert found == {
        "seen": ["shown"],
        "played": ["played", "twice", "finished", "whole"],
        "finished": ["finished", "whole"],
        "liked": ["liked"],
        "hidden": ["hidden", "unwanted"],
        "followed": ["followed"],
    }
    watched = {
        video: (row["watched_seconds"], row["watched_fraction"]) for (_, video), row in rows.items()
    }
    assert watched["twice"] == (7, 0.5)
    assert watched["finished"] == watched["whole"] == (None, 1)
    assert watched["played"] == watched["liked"] == (None, None)


def test_a_row_has_what_the_slate_says_of_its_video(rows_of: Any) -> None:
    slates = [
        slate(
            "a",
            "1",
            "x y",
            shown_before=10,
            item_sources=[2, 68],
            placements=["pinned", "score"],
            propensities=[1.0, 0.5],
        ),
        slate("b", "2", "z", 5, placements=[], propensities=[]),
        slate("empty", "2", "", 7),
    ]
    rows = rows_of(slates, [])
    assert list(rows) == [("a", "x"), ("a", "y"), ("b", "z")]
    names = ("position", "sources", "placement", "propensity")
    assert [rows["a", "y"][name] for name in names] == [12, 68, "score", 0.5]
    assert [rows["b", "z"][name] for name in names] == [1, 2, None, None]
    assert rows["b", "z"]["answered_at"] == after(5)
    texts = [rows["a", "x"][name] for name in ("viewer_id", "surface", "release_id", "arm")]
    assert texts == ["1", "home", "r-1", "production"]


@pytest.mark.parametrize("seed", range(3))
def test_any_events_are_joined_as_one_after_the_other_would_be(rows_of: Any, seed: int) -> None:
    random = np.random.default_rng(seed)

    def some(letters: str) -> str:
        return str(random.choice([*letters]))

    slates = [
        slate(f"r{n}", some("12"), " ".join(random.permutation([*"uvwxyz"])[:3]), n * 40)
        for n in range(20)
    ]
    events = [
        event("play", some("123"), some("tuvwxyz"), float(at), str(random.choice(["", "r5", "?"])))
        | {"event_id": f"e{random.integers(40)}", "watched_seconds": 1.0}
        for at in random.integers(-50, 900, 60)
    ]
    expected = dict[tuple[str, str], float]()
    ordered = sorted(events, key=lambda each: (each["received_at"], each["sequence"]))
    for each in {(one["viewer_id"], one["event_id"]): one for one in ordered}.values():
        known = [one for one in slates if one["request_id"] == each["request_id"]]
        early = after(60) - after(0) if known else after(0) - after(0)
        fits = [
            one
            for one in (known if each["request_id"] else slates)
            if one["viewer_id"] == each["viewer_id"]
            and each["video_id"] in one["video_ids"]
            and one["answered_at"] <= each["at"] + early
            and (known or each["at"] <= one["answered_at"] + (after(300) - after(0)))
        ]
        if fits:
            key = fits[-1]["request_id"], each["video_id"]
            expected[key] = expected.get(key, 0) + 1
    rows = rows_of(slates, events, window=300)
    assert len(expected) > 2
    assert {key: row["watched_seconds"] for key, row in rows.items() if row["played"]} == expected


def test_files_of_the_archiver_are_read(tmp_path: Path) -> None:
    like = Event(event_id="e", viewer_id="v", video_id="a", kind=EVENT_KIND_LIKE, request_id="r")
    like.time.FromSeconds(1_700_000_001)
    messages = {
        "slates": archiving.logged(archiving.slate("r")),
        "events": RecordedEvents(events=[like]).SerializeToString(),
    }
    for name, message in messages.items():
        kind = KINDS[name]
        entry = Entry(1, "0", message, log="a log", stored_at=1_700_000_002.0)
        table, _ = table_of(kind, [entry])
        (tmp_path / f"{name}.parquet").write_bytes(parquet_of(kind, table, entry.position))
    files = [tmp_path / "slates.parquet"], [tmp_path / "events.parquet"]
    rows = shown_videos(*files).to_pylist()
    assert [(row["video_id"], row["liked"]) for row in rows] == [("c", False), ("a", True)]
