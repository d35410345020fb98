"""Files that become a data set: which of them, and of their rows, are refused, and their order."""

from __future__ import annotations

import errno
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders.importing import FULL_HEADER, HEADER, ROWS, VIDEOS, imported
from vireo.server.errors import VireoError
from vireo.server.features.activity import Bounce
from vireo.server.home import Home
from vireo.training.data.dataset import (
    Dataset,
    DatasetMissingError,
    describe_dataset,
    list_datasets,
    load_dataset,
)
from vireo.training.data.files import BadRowsError
from vireo.training.data.importing import ImportRequest, import_dataset


def mine(home: Home) -> Dataset:
    return load_dataset(home, "mine")


def test_ids_are_returned_unchanged(home: Home) -> None:
    videos = 'video_id,title\n007,x\n7,x\n0," x"\n 7,x\n'
    rows = "".join(f"00{n},{v},{n}\n" for n, v in enumerate(["007", "7", "0", " 7"]))
    imported(home, f"{HEADER}{rows}000,7,5\n000,0,6\n", videos)
    data = mine(home)
    assert data.videos["video_id"].tolist() == ["007", "7", "0", " 7"]
    assert data.interactions["video_id"].tolist() == ["007", "7", "0", " 7", "7", "0"]
    assert data.interactions["viewer_id"].tolist() == ["000", "001", "002", "003", "000", "000"]
    assert data.viewers["viewer_id"].tolist() == ["000", "001", "002", "003"]


def test_integer_ids_of_parquet_become_their_decimal_text(home: Home) -> None:
    days = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    watches = {
        "viewer_id": pa.array([0, 0, 0], pa.int32()),
        "video_id": [5, 0, -3],
        "timestamp": pa.array(days, pa.timestamp("ns", tz="Europe/Zurich")),
    }
    videos = {
        "video_id": [5, 0, -3],
        "title": ["a", "b", "c"],
        "tags": [["x", "y"], None, []],
        "published": [date(1922, 1, 1), None, date(2020, 1, 1)],
    }
    imported(home, watches, videos)
    data = mine(home)
    assert data.videos["video_id"].tolist() == ["5", "0", "-3"]
    assert data.interactions["video_id"].tolist() == ["5", "0", "-3"]
    assert data.interactions["timestamp"][0] == pd.Timestamp("2024-01-01", tz="UTC")
    assert [list(tags) for tags in data.videos["tags"]] == [["x", "y"], [], []]
    assert data.videos["published"][0] == pd.Timestamp("1922-01-01", tz="UTC")
    assert data.viewers.to_dict("list") == {"viewer_id": ["0"], "attributes": [pytest.approx([])]}


def test_categories_and_nan_of_parquet_are_text_and_missing(home: Home) -> None:
    """Data frames keep categories in dictionaries, and some write NaN where nothing is known."""
    moments = pa.array([1e9, float("nan"), 2e9])
    videos = {
        "video_id": pa.array(["x", "y", "z"]).dictionary_encode(),
        "title": pa.array(["X", "Y", "Z"], pa.string_view()),
        "tags": pa.array(["a|b", "a", None]).dictionary_encode(),
        "published": moments,
        "duration": moments,
    }
    watches = {
        "viewer_id": pa.array(["v"] * 3).dictionary_encode(),
        "video_id": pa.array(["x", "y", "z"], pa.string_view()),
        "timestamp": pa.array(["100", "200", "2024-05-01"]).dictionary_encode(),
    }
    imported(home, watches, videos)
    found = mine(home).videos
    assert [list(tags) for tags in found["tags"]] == [["a", "b"], ["a"], []]
    for name in ("published", "duration"):
        assert found[name].isna().tolist() == [False, True, False]


@pytest.mark.parametrize("column", ["viewer_id", "video_id"])
def test_a_column_of_decimals_is_no_column_of_ids(home: Home, column: str) -> None:
    columns = {"viewer_id": ["a", "b"], "video_id": ["0", "007"], "timestamp": [1, 2]}
    with pytest.raises(
        VireoError, match=rf"parquet, column {column}: ids are of type double; write"
    ):
        imported(home, {**columns, column: [7.0, None]})


@pytest.mark.parametrize(("bounce", "early"), [("0.05", 1), ("10s", 2), ("0", 0)])
def test_plays_that_ended_early_are_bounces(home: Home, bounce: str, early: int) -> None:
    videos = "video_id,title,duration\n007,Seven,100\n0,Zero,\nü,Umlaut,4\n"
    # The fourth is rated, the fifth liked.
    rows = "a,007,1,play,0.04,\na,007,2,play,0.05,\na,0,3,play,,\na,007,4,play,0.01,4\n"
    rows += "a,ü,5,like,0.01,\na,ü,6,play,1,\na,0,7,play,,\n"
    info = imported(home, FULL_HEADER + rows, videos, bounce=Bounce.parse(bounce))
    kinds = ["bounce"] * early + ["play"] * (4 - early) + ["like", "play", "play"]
    assert mine(home).interactions["event"].tolist() == kinds
    assert info.bounce == describe_dataset(home, "mine").bounce == Bounce.parse(bounce)


@pytest.mark.parametrize(
    ("ratings", "scale", "kept"),
    [
        ([1, 3, 5], None, [1, 3, 5]),
        ([1, 8, 10], None, [0.5, 4, 5]),
        ([79, 80, 100], None, [3.95, 4, 5]),
        ([1, 3, 5], 10, [0.5, 1.5, 2.5]),
        ([0, 1, 1], 1, [0, 5, 5]),
    ],
)
def test_ratings_are_converted_to_one_scale(
    home: Home, ratings: list[int], scale: float | None, kept: list[float]
) -> None:
    rows = zip(["007", "0", "ü"], ratings, strict=True)
    text = "".join(f"a,{video},{n},{rating}\n" for n, (video, rating) in enumerate(rows))
    text = "viewer_id,video_id,timestamp,rating\n" + text
    info = imported(home, text, rating_scale=scale)
    assert mine(home).interactions["rating"].tolist() == pytest.approx(kept)
    assert bool(info.problems) == (ratings != kept)
    with pytest.raises(VireoError, match=r"a rating of \d+, above --rating-scale 0\.5"):
        imported(home, text, rating_scale=0.5, force=True)


@pytest.mark.parametrize(
    ("viewers", "attributes"),
    [
        (
            "country,viewer_id,plan\nCH,a,\n,z,x=y\n",
            {"a": ["country=CH"], "z": ["plan=x=y"], "b": []},
        ),
        (
            {"viewer_id": ["a", "b", "c"], "age": [25.0, None, 1.5], "x": [True] * 3},
            {"a": ["age=25", "x=True"], "b": ["x=True"], "c": ["age=1.5", "x=True"]},
        ),
    ],
)
def test_attributes_are_all_other_columns_of_the_viewers_file(
    home: Home, viewers: str | dict[str, Any], attributes: dict[str, list[str]]
) -> None:
    imported(home, HEADER + ROWS + "b,0,1\n", viewers=viewers)
    frame = mine(home).viewers
    found = dict(zip(frame["viewer_id"], map(list, frame["attributes"]), strict=True))
    assert found == attributes


def test_too_many_or_too_long_attributes_are_refused(home: Home) -> None:
    names = ",".join(f"c{n}" for n in range(17))
    with pytest.raises(VireoError, match=r"17 attributes and at most 16 are read"):
        imported(home, viewers=f"viewer_id,{names}\n")
    with pytest.raises(BadRowsError, match=r"viewers.csv, row 2, column bio: bio=value is over"):
        imported(home, viewers=f"viewer_id,bio\na,{'x' * 253}\n")
    imported(home, viewers=f"viewer_id,bio\na,{'x' * 252}\n")


@pytest.mark.parametrize(
    ("interactions", "videos", "said"),
    [
        ("viewer_id,video_id\n", VIDEOS, r"interactions.csv has no column timestamp; it has"),
        (
            {"viewer_id": pa.array([], pa.string()), "video_id": pa.array([], pa.string())},
            VIDEOS,
            r"has no column timestamp; it has viewer_id, video_id",
        ),
        ("", VIDEOS, r"interactions.csv is empty; its first line must name the columns"),
        ("viewer_id,viewer_id\n", VIDEOS, r"two columns named 'viewer_id'; rename one"),
        (HEADER + ROWS, "video_id\n", r"videos.csv has no column title"),
        (f"{HEADER}a,".encode() + b"\xff,1\n", VIDEOS, r"row 2, column video_id.*UTF-8"),
        (b"\xff,video_id\n", VIDEOS, r"interactions.csv: the header is not UTF-8; save the"),
        (HEADER + ROWS + 'a,"0,1\na,0,2\n', VIDEOS, r"row 5: a quoted field runs over the end"),
        (HEADER, VIDEOS, r"no viewer watched more than 0 videos"),
        (HEADER + ROWS[:-8], VIDEOS, r"no viewer watched more than 2 videos, too few to train on"),
        (
            f"{HEADER[:-1]},event\na,0,1,hide\na,007,2,play\na,ü,3,impression\n",
            VIDEOS,
            r"no viewer watched more than 1 videos",
        ),
        (HEADER + "a,1,1\n", "video_id,title\n1,x\n", r"there are 1 videos"),
        (
            HEADER + "".join(f"a,{video},45413\n" for video in ("007", "0", "ü")),
            VIDEOS,
            r"interactions\.csv, column timestamp: .* as in Excel",
        ),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(
    home: Home, interactions: str | bytes | dict[str, Any], videos: str, said: str
) -> None:
    with pytest.raises(VireoError, match=said) as caught:
        imported(home, interactions, videos)
    assert len(str(caught.value).splitlines()) == 1
    assert not home.data("mine").exists()


def test_a_byte_order_mark_empty_lines_and_line_ends_of_windows_do_no_harm(home: Home) -> None:
    text = (HEADER + ROWS).replace("\n", "\r\n").replace("a,0,", "\r\na,0,")
    imported(home, b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    frame = mine(home).interactions
    assert frame["row"].tolist() == [2, 4, 5]
    assert frame["viewer_id"].tolist() == ["a", "a", "a"]


def test_missing_and_unreadable_files_are_one_clear_line(home: Home, tmp_path: Path) -> None:
    (tmp_path / "videos.csv").write_text(VIDEOS)
    (tmp_path / "videos.parquet").write_text("no parquet")
    for name, said in (
        ("none.csv", "there is no file"),
        ("videos.xlsx", "is neither .csv nor .parquet"),
        ("videos.parquet", "cannot read .* as parquet"),
        ("", "is neither .csv nor .parquet"),
    ):
        with pytest.raises(VireoError, match=said):
            import_dataset(home, ImportRequest("mine", tmp_path / name, tmp_path / "videos.csv"))


def test_a_data_set_is_replaced_only_by_force_and_stays_if_the_disk_is_full(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, more = imported(home), HEADER + ROWS + "b,0,9\n"
    with pytest.raises(VireoError, match=r"a data set mine already; pass --replace"):
        imported(home, more)
    second = imported(home, more, force=True)
    assert first.fingerprint != second.fingerprint
    assert describe_dataset(home, "mine") == second
    assert imported(home, force=True).fingerprint == first.fingerprint

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(VireoError, match=r"cannot write .*mine: No space left on device"):
        imported(home, more, force=True)
    assert describe_dataset(home, "mine").fingerprint == first.fingerprint
    assert [path.name for path in home.data("mine").parent.iterdir()] == ["mine"]


def test_data_sets_are_listed_and_a_missing_one_names_the_command_that_makes_it(
    home: Home,
) -> None:
    assert list_datasets(home) == []
    with pytest.raises(DatasetMissingError, match=r"vireo data fetch ml-100k"):
        load_dataset(home, "ml-100k")
    with pytest.raises(DatasetMissingError, match=r"vireo data import --data mine"):
        load_dataset(home, "mine")
    with pytest.raises(VireoError, match=r"'\.\./x' can't name a data set"):
        load_dataset(home, "../x")
    imported(home)
    assert [(info.name, info.events) for info in list_datasets(home)] == [("mine", {"play": 3})]


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
