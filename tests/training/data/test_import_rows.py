"""Rows of imported files: which are refused or dropped, and in whose order the rest is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders.importing import FULL_HEADER, HEADER, ROWS, VIDEOS, imported
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.dataset import (
    Dataset,
    load_dataset,
)
from vireo.training.data.files import BadRowsError
from vireo.training.data.importing import ImportRequest, import_dataset


def mine(home: Home) -> Dataset:
    return load_dataset(home, "mine")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (",0,1", r"row 5, column viewer_id: the id is missing; give every row its id"),
        ("a,,1", r"row 5, column video_id: the id is missing"),
        (f"{'é' * 65},0,1", r"row 5, column viewer_id: the id 'é+\.\.\. is over 128 bytes long"),
        ("a,8,1", r"row 5, column video_id: video '8' is not in the videos file; add the video"),
        ("a,0,", r"row 5, column timestamp: the time is missing"),
        ("a,0,soon", r"row 5, column timestamp: 'soon' is not a time; write Unix seconds or ISO"),
        ("a,0,1,watch", r"column event: 'watch' is not a kind of event; write one of play, like"),
        ("a,0,1,,1.5", r"column watched_fraction: '1.5' is not a number from 0 to 1"),
        ("a,0,1,,,good", r"column rating: 'good' is not a number that is finite"),
        ("a,0,1,,,-1e999", r"column rating: '-1e999' is not a number"),
        ("a,0,1,,,1,1,1", r"row 5: 8 fields, but the header has 6; put text that contains"),
    ],
)
def test_a_bad_row_is_named_by_file_row_and_column(home: Home, row: str, said: str) -> None:
    good = "a,0,1,play,0.5,3\na,007,2,like,,\na,ü,3,,,\n"
    text = FULL_HEADER + good + row + "," * max(0, 5 - row.count(",")) + "\n"
    with pytest.raises(BadRowsError, match=r"interactions\.csv, .*" + said) as caught:
        imported(home, text)
    assert str(caught.value).startswith("1 bad value, nothing was imported")
    assert not home.data("mine").exists()
    info = imported(home, text, skip_bad_rows=True)
    assert info.interactions == 3
    assert info.problems == {"bad interactions left out": 1}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0,other", r"row 5, column video_id: '0' was described before, otherwise; keep one"),
        ("9,x,,1995", r"column published: '1995' is a year or month, not Unix seconds; write"),
        ("9,x,,,-1", r"column duration: '-1' is not a number of at least 0"),
        ("9,x,,,1e300", r"column duration: '1e300' is not a number of at least 0"),
        (f"9,x,,,,{'a' * 129}", r"row 5, column creator: .* is over 128 bytes long"),
    ],
)
def test_a_bad_video_is_named(home: Home, row: str, said: str) -> None:
    text = "video_id,title,tags,published,duration,creator\n"
    text += "0,Zero,,,,ana\n007,Seven,a| b|a,,90,7\nü,,,,,\n"
    text += row + "," * (5 - row.count(",")) + "\n"
    with pytest.raises(BadRowsError, match=r"videos\.csv, .*" + said):
        imported(home, videos=text)
    info = imported(home, videos=text, skip_bad_rows=True)
    assert info.problems["bad videos left out"] == 1
    videos = mine(home).videos
    assert videos["title"].tolist() == ["Zero", "Seven", "ü"]
    assert videos["creator"].tolist() == ["ana", "7", None]
    assert list(videos["tags"][1]) == ["a", "b"]


def test_only_the_first_problems_are_listed_in_order(home: Home) -> None:
    rows = "".join("a,0,x\n" if n % 2 else ",0,1\n" for n in range(60))
    with pytest.raises(BadRowsError) as caught:
        imported(home, HEADER + ROWS + rows)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("60 bad values")
    assert [line.split(",")[1] for line in lines[1:21]] == [f" row {n}" for n in range(5, 25)]
    assert lines[21:] == ["  and 40 more"]


def test_interactions_of_a_skipped_video_are_skipped(home: Home) -> None:
    given = f"{HEADER}{ROWS}a,9,400\n", "video_id,title,duration\n007,x,\n0,x,\nü,x,\n9,x,long\n"
    with pytest.raises(BadRowsError, match=r"^1 bad value"):
        imported(home, *given)
    info = imported(home, *given, skip_bad_rows=True)
    assert info.problems == {"bad videos left out": 1, "bad interactions left out": 1}
    assert info.interactions == 3


def test_a_time_far_from_all_others_is_a_bad_row(home: Home) -> None:
    rows = "".join(f"a,{'0' if n % 2 else 'ü'},{1_700_000_000 + n}\n" for n in range(1_500))
    text = f"{HEADER}{rows}a,007,0\na,007,1700000000\n"
    with pytest.raises(BadRowsError) as caught:
        imported(home, text)
    assert str(caught.value).splitlines()[1:] == [
        "  interactions.csv, row 1502, column timestamp: 1970-01-01T00:00:00Z is over 2 years away "
        "from all but a few other events; write the time of the event, or leave the row out"
    ]
    info = imported(home, text, skip_bad_rows=True)
    assert info.problems["bad interactions left out"] == 1
    assert info.first.year == 2023


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files read and written a few rows at a time."""
    monkeypatch.setattr("vireo.training.data.files.BLOCK_BYTES", 64)
    monkeypatch.setattr("vireo.training.data.files.ROWS_AT_A_TIME", 3)
    monkeypatch.setattr("vireo.training.data.interactions.ROWS_AT_A_TIME", 4)


def test_rows_keep_their_numbers_from_part_to_part(home: Home, small_parts: None) -> None:
    rows = [f"a,{('007', 'ü', '0')[n % 3]},{1_000 - n}" for n in range(60)]
    uneven, bad = {5: "a,0", 6: "a,0,1,1", 40: "a"}, {7: "a,0,soon", 39: "a,0,later"}
    for place, row in (uneven | bad).items():
        rows[place] = row
    rows[20] = ""
    text = HEADER + "\n".join([*rows, "b,0", ""])
    with pytest.raises(BadRowsError) as caught:
        imported(home, text)
    lines = str(caught.value).splitlines()[1:]
    places = [int(line.split("row ")[1].split(",")[0].split(":")[0]) for line in lines]
    assert places == [7, 8, 9, 41, 42, 62]
    info = imported(home, text, skip_bad_rows=True)
    assert info.problems["bad interactions left out"] == 6
    left = [n + 2 for n in range(60) if n not in (*uneven, *bad, 20)]
    assert mine(home).interactions["row"].tolist() == left[::-1]


def test_parts_make_no_difference(home: Home, request: pytest.FixtureRequest) -> None:
    random = np.random.default_rng(0)
    videos = "video_id,title\n" + "".join(f"{n},x\n" for n in [*range(9), 3])
    rows = "".join(
        f"u{random.integers(5)},{random.integers(9)},{random.integers(40)},"
        f"{random.choice(['play', 'like', ''])}\n"
        for _ in range(300)
    )
    text = f"viewer_id,video_id,timestamp,event\n{rows}"
    whole, data = imported(home, text, videos), mine(home)
    before = data.interactions, data.videos, data.viewers
    request.getfixturevalue("small_parts")
    parts = imported(home, text, videos, force=True)
    assert whole.problems["repeated interactions dropped"] > 0
    assert whole.problems["videos given twice, dropped"] == 1
    assert parts.problems == whole.problems
    for one, other in zip(before, (data.interactions, data.videos, data.viewers), strict=True):
        pd.testing.assert_frame_equal(one.astype(str), other.astype(str))


def test_a_folder_of_parquet_files_is_one_file_with_columns_in_its_folders_names(
    home: Home, tmp_path: Path, small_parts: None
) -> None:
    rows = {"viewer_id": ["a"] * 4, "video_id": ["0", "007", "ü", "ü"], "timestamp": [4, 3, 2, 1]}
    for event in ("like", "play"):
        part = tmp_path / "interactions.parquet" / f"event={event}"
        part.mkdir(parents=True)
        pq.write_table(pa.table(rows), part / "part-0.parquet")
    (tmp_path / "videos.csv").write_text(VIDEOS)
    request = ImportRequest("mine", tmp_path / "interactions.parquet", tmp_path / "videos.csv")
    assert import_dataset(home, request).events == {"like": 4, "play": 4}
    assert mine(home).interactions["row"].tolist() == [4, 8, 3, 7, 2, 6, 1, 5]


def test_ids_are_decimals_only_if_all_of_them_are(home: Home, small_parts: None) -> None:
    rows = "".join(f"7.0,0,{n}\n" for n in range(20))
    with pytest.raises(VireoError, match=r"row 3, column viewer_id.*'7\.0'.*integers or text"):
        imported(home, f"{HEADER},0,1\n{rows}", skip_bad_rows=True)
    assert imported(home, HEADER + rows + ROWS).interactions == 23


def test_repeats_are_dropped_and_unsorted_times_sorted_and_counted(home: Home) -> None:
    rows = ["a,ü,300", "a,0,200", "a,007,200", "b,0,200", "a,0,200", "a,0,100"]
    info = imported(home, HEADER + "\n".join(rows))
    assert info.problems == {
        "repeated interactions dropped": 1,
        "interactions earlier than the row before, sorted": 2,
    }
    frame = mine(home).interactions
    assert frame["row"].tolist() == [7, 4, 5, 6, 2]
    assert frame["timestamp"].is_monotonic_increasing


def test_of_rows_of_one_moment_the_last_counts(home: Home) -> None:
    rows = ["ü,1,2,", "0,1,2,0.5", "ü,1,5,", "ü,1,5,", "0,1,2,", "007,1,,", "007,1,,"]
    header = "viewer_id,video_id,timestamp,rating,watched_fraction\n"
    info = imported(home, header + "\n".join(f"a,{row}" for row in rows))
    assert info.problems == {
        "repeated interactions dropped": 2,
        "interactions replaced by a later row of the same moment": 2,
    }
    frame = mine(home).interactions[["row", "rating", "watched_fraction"]]
    kept = frame.astype(str).values.tolist()
    assert kept == [["5", "5.0", "nan"], ["6", "2.0", "nan"], ["8", "nan", "nan"]]
