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

from vireo.server.errors import VireoError
from vireo.server.features.activity import Bounce
from vireo.server.home import Home
from vireo.training.data.dataset import (
    DatasetInfo,
    DatasetMissingError,
    describe_dataset,
    list_datasets,
    load_dataset,
)
from vireo.training.data.importing import ImportRequest, import_dataset
from vireo.training.data.problems import BadRowsError

VIDEOS = "video_id,title\n007,Seven\n0,Zero\nü,Umlaut\n"
INTERACTIONS = "viewer_id,video_id,timestamp\na,007,100\na,0,200\na,ü,300\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def imported(
    home: Home,
    folder: Path,
    interactions: str | bytes = INTERACTIONS,
    videos: str | bytes = VIDEOS,
    viewers: str | None = None,
    **options: Any,
) -> DatasetInfo:
    """Imports CSV texts as data set "mine"."""
    paths: dict[str, Any] = {}
    for stem, text in (("interactions", interactions), ("videos", videos), ("viewers", viewers)):
        if text is not None:
            paths[stem] = folder / f"{stem}.csv"
            paths[stem].write_bytes(text.encode() if isinstance(text, str) else text)
    return import_dataset(home, ImportRequest(name="mine", **paths, **options))


def tables_of(home: Home) -> list[pd.DataFrame]:
    """The tables of data set "mine" as they are now."""
    data = load_dataset(home, "mine")
    return [data.interactions, data.videos, data.viewers]


def parquet(folder: Path, stem: str, columns: dict[str, Any]) -> Path:
    path = folder / f"{stem}.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_ids_are_returned_unchanged(home: Home, folder: Path) -> None:
    videos = 'video_id,title\n007,x\n7,x\n0," x"\n 7,x\n'
    rows = "".join(f"00{n},{v},{n}\n" for n, v in enumerate(["007", "7", "0", " 7"]))
    rows += "000,7,5\n000,0,6\n"
    imported(home, folder, f"viewer_id,video_id,timestamp\n{rows}", videos)
    data = load_dataset(home, "mine")
    assert data.videos["video_id"].tolist() == ["007", "7", "0", " 7"]
    assert data.interactions["video_id"].tolist() == ["007", "7", "0", " 7", "7", "0"]
    assert data.interactions["viewer_id"].tolist() == ["000", "001", "002", "003", "000", "000"]
    assert data.viewers["viewer_id"].tolist() == ["000", "001", "002", "003"]


def test_integer_ids_of_parquet_become_their_decimal_text(home: Home, folder: Path) -> None:
    request = ImportRequest(
        name="mine",
        interactions=parquet(
            folder,
            "interactions",
            {
                "viewer_id": pa.array([0, 0, 0], pa.int32()),
                "video_id": [5, 0, -3],
                "timestamp": pa.array(
                    [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3)],
                    pa.timestamp("ns", tz="Europe/Zurich"),
                ),
            },
        ),
        videos=parquet(
            folder,
            "videos",
            {
                "video_id": [5, 0, -3],
                "title": ["a", "b", "c"],
                "tags": [["x", "y"], None, []],
                "published": [date(1922, 1, 1), None, date(2020, 1, 1)],
            },
        ),
    )
    import_dataset(home, request)
    data = load_dataset(home, "mine")
    assert data.videos["video_id"].tolist() == ["5", "0", "-3"]
    assert data.interactions["video_id"].tolist() == ["5", "0", "-3"]
    assert data.interactions["timestamp"][0] == pd.Timestamp("2024-01-01", tz="UTC")
    assert [list(tags) for tags in data.videos["tags"]] == [["x", "y"], [], []]
    assert data.videos["published"][0] == pd.Timestamp("1922-01-01", tz="UTC")
    assert data.viewers.to_dict("list") == {"viewer_id": ["0"], "attributes": [pytest.approx([])]}


@pytest.mark.parametrize("column", ["viewer_id", "video_id"])
def test_a_column_of_decimals_is_no_column_of_ids(home: Home, folder: Path, column: str) -> None:
    columns = {"viewer_id": ["a", "b"], "video_id": ["0", "007"], "timestamp": [1, 2]}
    path = parquet(folder, "interactions", {**columns, column: [7.0, None]})
    (folder / "videos.csv").write_text(VIDEOS)
    with pytest.raises(VireoError, match=rf"interactions.parquet, row 1, column {column}.*7\.0"):
        import_dataset(home, ImportRequest("mine", path, folder / "videos.csv"))


def test_decimal_ids_in_csv_are_refused_too(home: Home, folder: Path) -> None:
    text = "viewer_id,video_id,timestamp\n,0,1\n7.0,0,1\n8.0,0,2\n"
    with pytest.raises(VireoError, match=r"row 3, column viewer_id.*'7\.0'.*integers or text"):
        imported(home, folder, text)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0", "1970-01-01T00:00:00Z"),
        ("1714586400", "2024-05-01T18:00:00Z"),
        ("1714586400.25", "2024-05-01T18:00:00.25Z"),
        ("2024-05-01T18:00:00Z", "2024-05-01T18:00:00Z"),
        ("2024-05-01 20:00:00+02:00", "2024-05-01T18:00:00Z"),
        ("2024-05-01", "2024-05-01T00:00:00Z"),
    ],
)
def test_times_are_unix_seconds_or_iso(home: Home, folder: Path, written: str, meant: str) -> None:
    text = f"viewer_id,video_id,timestamp\na,0,{written}\na,007,{written}\na,ü,{written}\n"
    imported(home, folder, text)
    assert set(load_dataset(home, "mine").interactions["timestamp"]) == {pd.Timestamp(meant)}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (",0,1", r"row 5, column viewer_id: the id is missing; give every row its id"),
        ("a,,1", r"row 5, column video_id: the id is missing"),
        (f"{'é' * 65},0,1", r"row 5, column viewer_id: the id 'é+\.\.\. is over 128 bytes long"),
        ("a,8,1", r"row 5, column video_id: video '8' is not in the videos file; add the video"),
        ("a,0,", r"row 5, column timestamp: the time is missing"),
        ("a,0,soon", r"row 5, column timestamp: 'soon' is not a time; write Unix seconds or ISO"),
        ("a,0,1714586400000", r"'1714586400000' is not a Unix time in seconds; divide millisec"),
        ("a,0,-5", r"column timestamp: '-5' is before 1970"),
        ("a,0,nan", r"column timestamp: 'nan' is not a time"),
        ("a,0,20240501", r"'20240501' is a day, not Unix seconds; write it with dashes"),
        ("a,0,9999999999", r"'9999999999' is in the future"),
        ("a,0,2100-01-01", r"'2100-01-01' is in the future \(it is 20.*Z now\); write the time"),
        ("a,0,1,watch", r"column event: 'watch' is not a kind of event; write one of play, like"),
        ("a,0,1,,1.5", r"column watched_fraction: '1.5' is not a number from 0 to 1"),
        ("a,0,1,,,good", r"column rating: 'good' is not a number that is finite"),
        ("a,0,1,,,1,1,1", r"row 5: 8 fields, but the header has 6; put text that contains"),
    ],
)
def test_a_bad_row_is_named_by_file_row_and_column(
    home: Home, folder: Path, row: str, said: str
) -> None:
    header = "viewer_id,video_id,timestamp,event,watched_fraction,rating"
    good = ["a,0,1,play,0.5,3", "a,007,2,like,,", "a,ü,3,,,"]
    padded = row + "," * max(0, 5 - row.count(","))
    text = "\n".join([header, *good, padded, ""])
    with pytest.raises(BadRowsError, match=r"interactions\.csv, " + r".*" + said) as caught:
        imported(home, folder, text)
    assert str(caught.value).startswith("1 bad value, nothing was imported")
    assert not home.data("mine").exists()
    info = imported(home, folder, text, skip_bad_rows=True)
    assert info.interactions == 3
    assert info.problems == {"bad interactions left out": 1}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0,other", r"row 5, column video_id: '0' was described before, otherwise; keep one"),
        ("9,x,,1995", r"column published: '1995' is a year or month, not Unix seconds; write"),
        ("9,x,,0001-01-01", r"column published: '0001-01-01' is not from 1700 to 20"),
        ("9,x,,,-1", r"column duration: '-1' is not a number of at least 0"),
        ("9,x,,,1e300", r"column duration: '1e300' is not a number of at least 0"),
    ],
)
def test_a_bad_video_is_named(home: Home, folder: Path, row: str, said: str) -> None:
    text = "video_id,title,tags,published,duration\n0,Zero,,,\n007,Seven,a| b|a,,90\nü,,,,\n"
    text += row + "," * (4 - row.count(",")) + "\n"
    with pytest.raises(BadRowsError, match=r"videos\.csv, " + r".*" + said):
        imported(home, folder, videos=text)
    info = imported(home, folder, videos=text, skip_bad_rows=True)
    assert info.problems["bad videos left out"] == 1
    videos = load_dataset(home, "mine").videos
    assert videos["title"].tolist() == ["Zero", "Seven", "ü"]
    assert list(videos["tags"][1]) == ["a", "b"]


def test_only_the_first_problems_are_listed_in_order(home: Home, folder: Path) -> None:
    rows = "".join("a,0,x\n" if n % 2 else ",0,1\n" for n in range(60))
    with pytest.raises(BadRowsError) as caught:
        imported(home, folder, INTERACTIONS + rows)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("60 bad values")
    assert [line.split(",")[1] for line in lines[1:21]] == [f" row {n}" for n in range(5, 25)]
    assert lines[21:] == ["  and 40 more"]


def test_interactions_of_a_skipped_video_are_skipped(home: Home, folder: Path) -> None:
    videos = "video_id,title,duration\n007,x,\n0,x,\nü,x,\n9,x,long\n"
    text = INTERACTIONS + "a,9,400\n"
    with pytest.raises(BadRowsError, match=r"^1 bad value"):
        imported(home, folder, text, videos)
    info = imported(home, folder, text, videos, skip_bad_rows=True)
    assert info.problems == {"bad videos left out": 1, "bad interactions left out": 1}
    assert info.interactions == 3


def test_zoned_and_zoneless_times_in_one_column_keep_their_moments(
    home: Home, folder: Path
) -> None:
    times = ["2024-05-01T18:00:00+02:00", "2024-05-01T16:00:01", "2024-05-01T16:00:02Z"]
    rows = "".join(f"a,{v},{t}\n" for v, t in zip(["0", "007", "ü"], times, strict=True))
    imported(home, folder, f"viewer_id,video_id,timestamp\n{rows}")
    frame = load_dataset(home, "mine").interactions
    assert frame["row"].tolist() == [2, 3, 4]
    assert [f"{time:%H:%M:%S}" for time in frame["timestamp"]] == [
        "16:00:00",
        "16:00:01",
        "16:00:02",
    ]


def test_a_time_far_from_all_others_is_a_bad_row(home: Home, folder: Path) -> None:
    rows = "".join(f"a,{'0' if n % 2 else 'ü'},{1_700_000_000 + n}\n" for n in range(1_500))
    text = f"viewer_id,video_id,timestamp\n{rows}a,007,0\na,007,1700000000\n"
    with pytest.raises(BadRowsError) as caught:
        imported(home, folder, text)
    assert str(caught.value).splitlines()[1:] == [
        "  interactions.csv, row 1502, column timestamp: 1970-01-01T00:00:00Z is over 2 years away "
        "from all but a few other events; write the time of the event, or leave the row out"
    ]
    info = imported(home, folder, text, skip_bad_rows=True)
    assert info.problems["bad interactions left out"] == 1
    assert info.first.year == 2023


@pytest.mark.parametrize(
    ("bounce", "kinds"),
    [
        ("0.05", ["bounce", "play", "play", "play", "like"]),
        ("10s", ["bounce", "bounce", "play", "play", "like"]),
        ("0", ["play", "play", "play", "play", "like"]),
    ],
)
def test_plays_that_ended_early_are_bounces(
    home: Home, folder: Path, bounce: str, kinds: list[str]
) -> None:
    videos = "video_id,title,duration\n007,Seven,100\n0,Zero,\nü,Umlaut,4\n"
    rows = [
        "a,007,1,play,0.04,",
        "a,007,2,play,0.05,",
        "a,0,3,play,,",
        "a,007,4,play,0.01,4",  # rated
        "a,ü,5,like,0.01,",
        "a,ü,6,play,1,",
    ]
    header = "viewer_id,video_id,timestamp,event,watched_fraction,rating"
    text = "\n".join([header, *rows, "a,0,7,play,,", ""])
    info = imported(home, folder, text, videos, bounce=Bounce.parse(bounce))
    events = load_dataset(home, "mine").interactions["event"].tolist()
    assert events == [*kinds, "play", "play"]
    assert info.bounce == Bounce.parse(bounce)
    assert describe_dataset(home, "mine").bounce == info.bounce


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
    home: Home, folder: Path, ratings: list[int], scale: float | None, kept: list[float]
) -> None:
    rows = zip(["007", "0", "ü"], ratings, strict=True)
    text = "".join(f"a,{video},{n},{rating}\n" for n, (video, rating) in enumerate(rows))
    text = "viewer_id,video_id,timestamp,rating\n" + text
    info = imported(home, folder, text, rating_scale=scale)
    assert load_dataset(home, "mine").interactions["rating"].tolist() == pytest.approx(kept)
    assert bool(info.problems) == (ratings != kept)
    with pytest.raises(VireoError, match=r"a rating of \d+, above --rating-scale 0\.5"):
        imported(home, folder, text, rating_scale=0.5, force=True)


def test_files_with_times_of_another_unit_are_refused(home: Home, folder: Path) -> None:
    rows = "".join(f"a,{video},{45_413 + n}\n" for n, video in enumerate(["007", "0", "ü"]))
    text = f"viewer_id,video_id,timestamp\n{rows}"
    with pytest.raises(VireoError, match=r"interactions\.csv, column timestamp: .* as in Excel"):
        imported(home, folder, text, skip_bad_rows=True)
    assert not home.data("mine").exists()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files read and written a few rows at a time."""
    monkeypatch.setattr("vireo.training.data.files.BLOCK_BYTES", 64)
    monkeypatch.setattr("vireo.training.data.files.ROWS_AT_A_TIME", 3)
    monkeypatch.setattr("vireo.training.data.interactions.ROWS_AT_A_TIME", 4)


def test_rows_keep_their_numbers_from_part_to_part(
    home: Home, folder: Path, small_parts: None
) -> None:
    rows = [f"a,{('007', 'ü', '0')[n % 3]},{1_000 - n}" for n in range(60)]
    uneven, bad = {5: "a,0", 6: "a,0,1,1", 40: "a"}, {7: "a,0,soon", 39: "a,0,later"}
    for place, row in (uneven | bad).items():
        rows[place] = row
    rows[20] = ""
    text = "viewer_id,video_id,timestamp\n" + "\n".join([*rows, "b,0", ""])
    with pytest.raises(BadRowsError) as caught:
        imported(home, folder, text)
    places = [
        int(line.split("row ")[1].split(",")[0].split(":")[0])
        for line in str(caught.value).splitlines()[1:]
    ]
    assert places == [7, 8, 9, 41, 42, 62]
    info = imported(home, folder, text, skip_bad_rows=True)
    assert info.problems["bad interactions left out"] == 6
    left = [n + 2 for n in range(60) if n not in (*uneven, *bad, 20)]
    assert load_dataset(home, "mine").interactions["row"].tolist() == left[::-1]


def test_parts_make_no_difference(home: Home, folder: Path, request: pytest.FixtureRequest) -> None:
    random = np.random.default_rng(0)
    videos = "video_id,title\n" + "".join(f"{n},x\n" for n in [*range(9), 3])
    rows = "".join(
        f"u{random.integers(5)},{random.integers(9)},{random.integers(40)},"
        f"{random.choice(['play', 'like', ''])}\n"
        for _ in range(300)
    )
    text = "viewer_id,video_id,timestamp,event\n" + rows
    whole = imported(home, folder, text, videos)
    before = tables_of(home)
    request.getfixturevalue("small_parts")
    parts = imported(home, folder, text, videos, force=True)
    after = tables_of(home)
    assert whole.problems["repeated interactions dropped"] > 0
    assert whole.problems["videos given twice, dropped"] == 1
    assert parts.problems == whole.problems
    for one, other in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(one.astype(str), other.astype(str))


def test_a_folder_of_parquet_files_is_one_file_with_columns_in_its_folders_names(
    home: Home, folder: Path, small_parts: None
) -> None:
    rows = {"viewer_id": ["a"] * 4, "video_id": ["0", "007", "ü", "ü"], "timestamp": [4, 3, 2, 1]}
    for event in ("like", "play"):
        part = folder / "interactions.parquet" / f"event={event}"
        part.mkdir(parents=True)
        pq.write_table(pa.table(rows), part / "part-0.parquet")
    (folder / "videos.csv").write_text(VIDEOS)
    request = ImportRequest("mine", folder / "interactions.parquet", folder / "videos.csv")
    assert import_dataset(home, request).events == {"like": 4, "play": 4}
    assert load_dataset(home, "mine").interactions["row"].tolist() == [4, 8, 3, 7, 2, 6, 1, 5]


def test_a_parquet_file_without_a_row_has_columns(home: Home, folder: Path) -> None:
    (folder / "videos.csv").write_text(VIDEOS)
    columns = {"viewer_id": pa.array([], pa.string()), "video_id": pa.array([], pa.string())}
    path = parquet(folder, "interactions", columns)
    with pytest.raises(VireoError, match=r"has no column timestamp; it has viewer_id, video_id"):
        import_dataset(home, ImportRequest("mine", path, folder / "videos.csv"))


def test_ids_are_decimals_only_if_all_of_them_are(
    home: Home, folder: Path, small_parts: None
) -> None:
    rows = "".join(f"{viewer},0,{n}\n" for n, viewer in enumerate(["7.0"] * 20))
    header = "viewer_id,video_id,timestamp\n"
    with pytest.raises(VireoError, match=r"row 2, column viewer_id.*'7\.0'.*integers or text"):
        imported(home, folder, header + rows)
    others = INTERACTIONS.removeprefix(header)
    assert imported(home, folder, header + rows + others).interactions == 23


def test_repeats_are_dropped_and_unsorted_times_sorted_and_counted(
    home: Home, folder: Path
) -> None:
    rows = ["a,ü,300", "a,0,200", "a,007,200", "b,0,200", "a,0,200", "a,0,100"]
    info = imported(home, folder, "viewer_id,video_id,timestamp\n" + "\n".join(rows))
    assert info.problems == {
        "repeated interactions dropped": 1,
        "interactions earlier than the row before, sorted": 2,
    }
    frame = load_dataset(home, "mine").interactions
    assert frame["row"].tolist() == [7, 4, 5, 6, 2]
    assert frame["timestamp"].is_monotonic_increasing


def test_of_rows_of_one_moment_the_last_counts(home: Home, folder: Path) -> None:
    rows = ["ü,1,2,", "0,1,2,0.5", "ü,1,5,", "ü,1,5,", "0,1,2,", "007,1,,", "007,1,,"]
    header = "viewer_id,video_id,timestamp,rating,watched_fraction\n"
    info = imported(home, folder, header + "\n".join(f"a,{row}" for row in rows))
    assert info.problems == {
        "repeated interactions dropped": 2,
        "interactions replaced by a later row of the same moment": 2,
    }
    frame = load_dataset(home, "mine").interactions
    kept = frame[["row", "rating", "watched_fraction"]].astype(str).values.tolist()
    assert kept == [["5", "5.0", "nan"], ["6", "2.0", "nan"], ["8", "nan", "nan"]]


def test_attributes_are_all_other_columns_of_the_viewers_file(home: Home, folder: Path) -> None:
    viewers = "country,viewer_id,plan\nCH,a,\n,z,x=y\n"
    imported(home, folder, INTERACTIONS + "b,0,1\n", viewers=viewers)
    frame = load_dataset(home, "mine").viewers
    attributes = dict(zip(frame["viewer_id"], map(list, frame["attributes"]), strict=True))
    assert attributes == {"a": ["country=CH"], "z": ["plan=x=y"], "b": []}


def test_integers_with_gaps_are_attributes_without_decimals(home: Home, folder: Path) -> None:
    viewers = parquet(
        folder, "viewers", {"viewer_id": ["a", "b", "c"], "age": [25.0, None, 1.5], "x": [True] * 3}
    )
    for stem, text in (("interactions", INTERACTIONS), ("videos", VIDEOS)):
        (folder / f"{stem}.csv").write_text(text)
    request = ImportRequest("mine", folder / "interactions.csv", folder / "videos.csv", viewers)
    import_dataset(home, request)
    found = [list(values) for values in load_dataset(home, "mine").viewers["attributes"]]
    assert found == [["age=25", "x=True"], ["x=True"], ["age=1.5", "x=True"]]


def test_too_many_or_too_long_attributes_are_refused(home: Home, folder: Path) -> None:
    names = ",".join(f"c{n}" for n in range(17))
    with pytest.raises(VireoError, match=r"17 attributes and at most 16 are read"):
        imported(home, folder, viewers=f"viewer_id,{names}\n")
    with pytest.raises(BadRowsError, match=r"viewers.csv, row 2, column bio: bio=value is over"):
        imported(home, folder, viewers=f"viewer_id,bio\na,{'x' * 253}\n")
    imported(home, folder, viewers=f"viewer_id,bio\na,{'x' * 252}\n")


def test_creators_are_optional_text(home: Home, folder: Path) -> None:
    imported(home, folder)
    assert tables_of(home)[1]["creator"].tolist() == [None, None, None]
    videos = "video_id,title,creator\n007,Seven,ana\n0,Zero,\nü,Umlaut,7\n"
    imported(home, folder, videos=videos, force=True)
    assert tables_of(home)[1]["creator"].tolist() == ["ana", None, "7"]
    with pytest.raises(BadRowsError, match=r"row 2, column creator: .* is over 128 bytes long"):
        imported(home, folder, videos=videos.replace("ana", "a" * 129), force=True)


def test_columns_that_are_not_read_are_named(home: Home, folder: Path) -> None:
    info = imported(home, folder, "viewer_id,video_id,timestamp,watch\na,0,1,x\na,007,2,\na,ü,3,\n")
    assert info.problems == {"columns of interactions ignored: watch": 1}


@pytest.mark.parametrize(
    ("interactions", "videos", "said"),
    [
        ("viewer_id,video_id\n", VIDEOS, r"interactions.csv has no column timestamp; it has"),
        ("", VIDEOS, r"interactions.csv is empty; its first line must name the columns"),
        ("viewer_id,viewer_id\n", VIDEOS, r"two columns named 'viewer_id'; rename one"),
        (INTERACTIONS, "video_id\n", r"videos.csv has no column title"),
        (b"viewer_id,video_id,timestamp\na,\xff,1\n", VIDEOS, r"row 2, column video_id.*UTF-8"),
        (b"\xff,video_id\n", VIDEOS, r"interactions.csv: the header is not UTF-8; save the"),
        (INTERACTIONS + 'a,"0,1\na,0,2\n', VIDEOS, r"row 5: a quoted field runs over the end"),
        ("viewer_id,video_id,timestamp\n", VIDEOS, r"no viewer watched more than 0 videos"),
        (INTERACTIONS[:-8], VIDEOS, r"no viewer watched more than 2 videos, too few to train on"),
        ("viewer_id,video_id,timestamp\na,1,1\n", "video_id,title\n1,x\n", r"there are 1 videos"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(
    home: Home, folder: Path, interactions: str | bytes, videos: str, said: str
) -> None:
    with pytest.raises(VireoError, match=said) as caught:
        imported(home, folder, interactions, videos)
    assert len(str(caught.value).splitlines()) == 1
    assert not home.data("mine").exists()


def test_hidden_videos_and_impressions_are_not_watched(home: Home, folder: Path) -> None:
    rows = "a,0,1,hide\na,007,2,play\na,ü,3,impression\n"
    with pytest.raises(VireoError, match=r"no viewer watched more than 1 videos"):
        imported(home, folder, "viewer_id,video_id,timestamp,event\n" + rows)


def test_a_byte_order_mark_empty_lines_and_line_ends_of_windows_do_no_harm(
    home: Home, folder: Path
) -> None:
    text = INTERACTIONS.replace("\n", "\r\n").replace("a,0,", "\r\na,0,")
    imported(home, folder, b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    frame = load_dataset(home, "mine").interactions
    assert frame["row"].tolist() == [2, 4, 5]
    assert frame["viewer_id"].tolist() == ["a", "a", "a"]


def test_missing_and_unreadable_files_are_one_clear_line(home: Home, folder: Path) -> None:
    (folder / "videos.csv").write_text(VIDEOS)
    (folder / "videos.parquet").write_text("no parquet")
    for path, said in (
        (folder / "none.csv", "there is no file"),
        (folder / "videos.xlsx", "is neither .csv nor .parquet"),
        (folder / "videos.parquet", "cannot read .* as parquet"),
        (folder, "is neither .csv nor .parquet"),
    ):
        with pytest.raises(VireoError, match=said):
            import_dataset(home, ImportRequest("mine", path, folder / "videos.csv"))


def test_a_data_set_is_replaced_only_by_force(home: Home, folder: Path) -> None:
    first = imported(home, folder)
    with pytest.raises(VireoError, match=r"a data set mine already; pass --force"):
        imported(home, folder, INTERACTIONS + "b,0,9\n")
    second = imported(home, folder, INTERACTIONS + "b,0,9\n", force=True)
    assert first.fingerprint != second.fingerprint
    assert describe_dataset(home, "mine") == second
    assert imported(home, folder, force=True).fingerprint == first.fingerprint
    assert [path.name for path in home.data("mine").parent.iterdir()] == ["mine"]


def test_a_full_disk_leaves_the_earlier_data_set(
    home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = imported(home, folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(VireoError, match=r"cannot write .*mine: No space left on device"):
        imported(home, folder, INTERACTIONS + "b,0,9\n", force=True)
    assert describe_dataset(home, "mine") == before
    assert [path.name for path in home.data("mine").parent.iterdir()] == ["mine"]


def test_a_missing_data_set_names_the_command_that_makes_it(home: Home) -> None:
    with pytest.raises(DatasetMissingError, match=r"vireo data fetch ml-100k"):
        load_dataset(home, "ml-100k")
    with pytest.raises(DatasetMissingError, match=r"vireo data import --name mine"):
        load_dataset(home, "mine")
    with pytest.raises(VireoError, match=r"'\.\./x' can't name a data set"):
        load_dataset(home, "../x")
    assert list_datasets(home) == []


def test_data_sets_are_listed_by_name(home: Home, folder: Path) -> None:
    imported(home, folder)
    assert [info.name for info in list_datasets(home)] == ["mine"]
    assert list_datasets(home)[0].events == {"play": 3}


def test_a_number_too_large_to_hold_is_a_bad_value(home: Home, folder: Path) -> None:
    interactions = "viewer_id,video_id,timestamp,rating\na,007,1e400,5\na,0,200,-1e999\na,ü,3,4\n"
    with pytest.raises(BadRowsError) as caught:
        imported(home, folder, interactions)
    assert "row 2, column timestamp: '1e400' is not a time" in str(caught.value)
    assert "row 3, column rating: '-1e999' is not a number" in str(caught.value)


def test_categories_and_nan_of_parquet_are_text_and_missing(home: Home, folder: Path) -> None:
    """Data frames keep categories in dictionaries, and some write NaN where nothing is known."""
    moments = pa.array([1e9, float("nan"), 2e9])
    columns = {
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
    videos = parquet(folder, "videos", columns)
    import_dataset(home, ImportRequest("mine", parquet(folder, "interactions", watches), videos))
    found = load_dataset(home, "mine").videos
    assert [list(tags) for tags in found["tags"]] == [["a", "b"], ["a"], []]
    assert found["published"].isna().tolist() == [False, True, False]
    assert found["duration"].isna().tolist() == [False, True, False]
