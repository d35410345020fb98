"""Attributes that an import declares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders.datasets import random_interactions, write_small_dataset
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.attributes import AttributeColumn, all_attributes, check_attributes
from vireo.training.data.dataset import DESCRIPTION, DatasetInfo, describe_dataset, load_dataset
from vireo.training.data.importing import ImportRequest, import_dataset
from vireo.training.data.problems import BadRowsError

VIDEOS = """video_id,title,tags,language,countries,age
007,Seven,a,de,CH|DE|CH,16
0,Zero,,en, AT ,
ü,Umlaut,,,,6.5
"""
INTERACTIONS = "viewer_id,video_id,timestamp\na,007,100\na,0,200\na,ü,300\n"
DECLARED = ("language", "region=countries", "age:number")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def imported(
    home: Home, folder: Path, videos: str | Path = VIDEOS, *declared: str, **options: Any
) -> DatasetInfo:
    """Imports a catalogue, CSV text or a file, as data set "mine"."""
    (folder / "i.csv").write_text(INTERACTIONS)
    if isinstance(videos, str):
        (folder / "v.csv").write_text(videos)
        videos = folder / "v.csv"
    attributes = tuple(map(AttributeColumn.parse, declared or DECLARED))
    request = ImportRequest("mine", folder / "i.csv", videos, attributes=attributes, **options)
    return import_dataset(home, request)


def columns_of(home: Home, *names: str) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = load_dataset(home, "mine").video_columns(*names).to_pydict()
    return columns


def test_declared_columns_become_attributes(home: Home, tmp_path: Path) -> None:
    info = imported(home, tmp_path)
    kinds = {"language": "labels", "region": "labels", "age": "number"}
    assert info.attributes == load_dataset(home, "mine").attributes == kinds
    assert info.problems == {}
    assert columns_of(home, "attribute.language", "attribute.region", "attribute.age") == {
        "attribute.language": [["de"], ["en"], []],
        "attribute.region": [["CH", "DE"], ["AT"], []],
        "attribute.age": [16.0, None, 6.5],
    }


def test_columns_of_parquet_may_have_lists_and_numbers(home: Home, tmp_path: Path) -> None:
    columns = {
        "video_id": ["007", "0", "ü"],
        "title": ["Seven", "Zero", "Umlaut"],
        "countries": pa.array([["CH", None, "DE"], None, []], pa.large_list(pa.string())),
        "rating": pa.array([16, None, 6], pa.int8()),
        "none": pa.nulls(3),
        "score": [0.1, float("nan"), 1e300],
    }
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    declared = ("region=countries", "rating", "none", "nothing=none:number", "score:number")
    imported(home, tmp_path, tmp_path / "v.parquet", *declared)
    names = ("region", "rating", "none", "nothing", "score")
    assert list(columns_of(home, *(f"attribute.{name}" for name in names)).values()) == [
        [["CH", "DE"], [], []],
        [["16"], [], ["6"]],
        [[], [], []],
        [None] * 3,
        [0.1, None, 1e300],
    ]


def test_undeclared_columns_are_ignored_as_before(home: Home, tmp_path: Path) -> None:
    info = imported(home, tmp_path, VIDEOS, "language")
    assert info.problems == {"columns of videos ignored: countries, age": 2}
    assert list(info.attributes) == ["language"]
    assert "attribute.language" not in load_dataset(home, "mine").videos


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        ("language", ("language", "language", "labels")),
        ("age:number", ("age", "age", "number")),
        ("age=Age (years):number", ("age", "Age (years)", "number")),
        ("a=b:c", ("a", "b:c", "labels")),
        ("a=b:number:labels", ("a", "b:number", "labels")),
        ("a=b=c", ("a", "b=c", "labels")),
    ],
)
def test_a_declaration_names_the_attribute_its_column_and_its_kind(
    text: str, declared: tuple[str, str, Any]
) -> None:
    assert AttributeColumn.parse(text) == AttributeColumn(*declared)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (["=language"], "'=language' lacks a name; write NAME, NAME=COLUMN or NAME:number"),
        (["language="], "lacks a name"),
        ([":number"], "lacks a name"),
        (["tag"], "has the attribute tag, from column tags: .* for example own_tag=tag"),
        (["published:number"], "has the attribute published, from column published"),
        (["Age Rating"], "lower-case letters, .* another name: age_rating=Age Rating"),
        (["age:numbers"], "'age:numbers' can't be the name"),
        (["9lives"], "another name: lives=9lives"),
        (["a" * 65], "1 to 64"),
        (["a\n"], "lower-case"),
        (["ü"], "another name: name=ü"),
        (["a", "b", "a=c"], "attribute a is declared twice"),
        ([f"a{number}" for number in range(17)], "17 attributes are declared, and at most 16"),
    ],
)
def test_what_cant_be_declared_is_refused(declared: list[str], said: str) -> None:
    with pytest.raises(VireoError, match=said):
        check_attributes([AttributeColumn.parse(text) for text in declared])


def test_sixteen_attributes_may_be_declared() -> None:
    check_attributes([AttributeColumn.parse(f"a{number}") for number in range(16)])


def test_an_unknown_column_is_named_before_anything_is_read(home: Home, tmp_path: Path) -> None:
    with pytest.raises(VireoError, match=r"v\.csv has no column land for the attribute region; it"):
        imported(home, tmp_path, VIDEOS, "region=land")
    assert not home.data("mine").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("de,CH,old", r"row 5, column age: 'old' is not a number that is finite; write a number"),
        ("de,CH,1e400", r"column age: '1e400' is not a number"),
        (f"{'é' * 65},CH,", r"column language: a label of 'é+\.\.\. is over 128 bytes long"),
        (f"de,{'|'.join(map(str, range(65)))},", r"column countries: '0\|1.* are over 64 labels"),
    ],
)
def test_a_value_that_isnt_one_is_named_and_can_be_dropped(
    home: Home, tmp_path: Path, values: str, said: str
) -> None:
    videos = f"{VIDEOS}bad,Bad,,{values}\n"
    with pytest.raises(BadRowsError, match=said):
        imported(home, tmp_path, videos)
    info = imported(home, tmp_path, videos, skip_bad_rows=True)
    assert info.problems == {"bad videos left out": 1}
    assert info.videos == 3


def test_a_column_of_structs_is_refused(home: Home, tmp_path: Path) -> None:
    columns = {"video_id": ["007"], "title": ["Seven"], "made": [{"by": "ana"}]}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    with pytest.raises(VireoError, match=r"column made: values are of type struct"):
        imported(home, tmp_path, tmp_path / "v.parquet", "made")


def test_videos_that_differ_by_an_attribute_alone_conflict(home: Home, tmp_path: Path) -> None:
    with pytest.raises(BadRowsError, match=r"'0' was described before, otherwise"):
        imported(home, tmp_path, f"{VIDEOS}0,Zero,,fr,AT,\n")


def test_a_data_set_without_declared_attributes_is_written_as_by_earlier_builds(home: Home) -> None:
    write_small_dataset(home, "small", random_interactions())
    folder = home.data("small")
    assert "attributes" not in json.loads((folder / DESCRIPTION).read_text())
    videos = pd.read_parquet(folder / "videos.parquet").drop(columns="creator")
    videos.to_parquet(folder / "videos.parquet")
    dataset = load_dataset(home, "small")
    assert describe_dataset(home, "small").attributes == dataset.attributes == {}
    assert "creator" not in dataset.videos
    declared = all_attributes(dataset.attributes)
    assert declared.labels == ("creator", "tag")
    assert declared.numbers == ("duration", "published")
