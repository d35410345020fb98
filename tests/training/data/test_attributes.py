"""Attributes that an import declares, or that videos of the log have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders import importing
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.data.dataset import DatasetInfo, load_dataset
from vireo.training.data.files import BadRowsError
from vireo.training.data.from_events import LEFT_OUT, attribute_kinds, attribute_values
from vireo.training.data.schema import AttributeColumn, check_attributes
from vireo.v1.catalog_pb2 import Video, VideoAttribute

VIDEOS = """video_id,title,tags,language,countries,age
007,Seven,a,de,CH|DE|CH,16
0,Zero,,en, AT ,
ü,Umlaut,,,,6.5
"""
DECLARED = ("language", "region=countries", "age:number")


def imported(
    home: Home, videos: str | dict[str, Any] = VIDEOS, *declared: str, **options: Any
) -> DatasetInfo:
    """Imports a catalogue, CSV text or columns of Parquet, as data set "mine"."""
    attributes = tuple(map(AttributeColumn.parse, declared or DECLARED))
    return importing.imported(home, videos=videos, attributes=attributes, **options)


def values_of(home: Home, *names: str) -> list[list[Any]]:
    columns = [f"attribute.{name}" for name in names]
    return list(load_dataset(home, "mine").video_columns(*columns).to_pydict().values())


def test_declared_columns_become_attributes_and_others_are_ignored(home: Home) -> None:
    info = imported(home)
    kinds = {"language": "labels", "region": "labels", "age": "number"}
    assert info.attributes == load_dataset(home, "mine").info.attributes == kinds
    assert info.problems == {}
    assert values_of(home, *kinds) == [
        [["de"], ["en"], []],
        [["CH", "DE"], ["AT"], []],
        [16.0, None, 6.5],
    ]
    info = imported(home, VIDEOS, "language", force=True)
    assert info.problems == {"columns of videos ignored: countries, age": 2}
    assert list(info.attributes) == ["language"]
    assert "attribute.language" not in load_dataset(home, "mine").videos


def test_a_catalogue_that_lacks_a_column_is_refused_with_what_to_do(home: Home) -> None:
    imported(home)
    dataset = load_dataset(home, "mine")
    path = dataset.folder / "videos.parquet"
    written = pq.read_table(path)
    pq.write_table(written.drop_columns(["creator", "attribute.age"]), path)
    with pytest.raises(VireoError, match=r"lacks creator; fetch or import .* again with --replace"):
        _ = dataset.videos
    with pytest.raises(VireoError, match=r"videos\.parquet lacks attribute\.age; fetch"):
        dataset.video_columns("title", "attribute.age")


def test_columns_of_parquet_may_have_lists_and_numbers(home: Home) -> None:
    columns = {
        "video_id": ["007", "0", "ü"],
        "title": ["Seven", "Zero", "Umlaut"],
        "countries": pa.array([["CH", None, "DE"], None, []], pa.large_list(pa.string())),
        "rating": pa.array([16, None, 6], pa.int8()),
        "none": pa.nulls(3),
        "score": [0.1, float("nan"), 1e300],
        "made": [{"by": "ana"}] * 3,
    }
    declared = ("region=countries", "rating", "none", "nothing=none:number", "score:number")
    imported(home, columns, *declared)
    assert values_of(home, "region", "rating", "none", "nothing", "score") == [
        [["CH", "DE"], [], []],
        [["16"], [], ["6"]],
        [[], [], []],
        [None] * 3,
        [0.1, None, 1e300],
    ]
    with pytest.raises(VireoError, match=r"column made: values are of type struct"):
        imported(home, columns, "made", force=True)


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
        (["Age Rating"], "lower-case letters, .* another name, for example own=Age Rating"),
        (["age:numbers"], "'age:numbers' can't be the name"),
        (["9lives"], "a letter first"),
        (["a" * 65], "1 to 64"),
        (["a\n"], "lower-case"),
        (["ü"], "lower-case"),
        (["a", "b", "a=c"], "attribute a is declared twice"),
        ([f"a{number}" for number in range(17)], "17 attributes are declared, and at most 16"),
    ],
)
def test_what_cant_be_declared_is_refused(declared: list[str], said: str) -> None:
    with pytest.raises(VireoError, match=said):
        check_attributes([AttributeColumn.parse(text) for text in declared])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("bad,Bad,,de,CH,old", r"row 5, column age: 'old' is not a number that is finite; write"),
        ("bad,Bad,,de,CH,1e400", r"column age: '1e400' is not a number"),
        (f"bad,Bad,,{'é' * 65},CH,", r"column language: a label of 'é+\.\.\. is over 128 bytes"),
        (f"bad,Bad,,de,{'|'.join(map(str, range(65)))},", r"countries: '0\|1.* are over 64 labels"),
        ("0,Zero,,fr,AT,", r"'0' was described before, otherwise"),
    ],
)
def test_a_value_that_isnt_one_is_named_and_can_be_dropped(home: Home, row: str, said: str) -> None:
    videos = f"{VIDEOS}{row}\n"
    with pytest.raises(BadRowsError, match=said):
        imported(home, videos)
    info = imported(home, videos, skip_bad_rows=True)
    assert info.problems == {"bad videos left out": 1}
    assert info.videos == 3


def labels(name: str, *values: str) -> VideoAttribute:
    return VideoAttribute(name=name, labels=values)


def number(name: str, value: float) -> VideoAttribute:
    return VideoAttribute(name=name, number=value)


def videos(*attributes: Sequence[VideoAttribute]) -> list[Video]:
    return [Video(video_id=f"v{place}", attributes=each) for place, each in enumerate(attributes)]


def test_attributes_of_the_log_have_the_kind_that_the_base_or_most_videos_give_them() -> None:
    found = attribute_kinds(
        {"age": "number"},
        videos(
            [labels("age", "old"), labels("language", "de"), number("score", 1)],
            [labels("age", "old"), number("language", 1), number("score", 2)],
            [labels("language", "en"), labels("No name", "x")],
        ),
    )
    assert found == {"age": "number", "language": "labels", "score": "number"}
    # Beyond sixteen, those that most videos have are declared.
    every = [labels(f"rare{place}", "x") for place in range(20)]
    found = attribute_kinds({"base": "labels"}, videos(every, every[10:], [labels("common", "x")]))
    assert len(found) == 16
    assert next(iter(found)) == "base"
    assert {f"rare{place}" for place in range(10, 20)} <= found.keys()


def test_values_of_another_kind_are_left_out_and_counted() -> None:
    notes = Counter[str]()
    each = [labels("a", "x", "y", "x"), number("b", 0.0), number("c", 1), labels("d", "x")]
    (video,) = videos([*each, number("e", float("inf"))])
    kinds = attribute_kinds({"a": "labels", "b": "number", "c": "labels", "e": "number"}, [])
    assert attribute_values(video, kinds, notes) == {"attribute.a": ["x", "y"], "attribute.b": 0.0}
    assert notes == {LEFT_OUT: 2}
