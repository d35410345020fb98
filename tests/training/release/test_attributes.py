"""The attributes of a release are those of its data set, read as pods read them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.builders.datasets import random_interactions
from vireo.server.home import Home
from vireo.server.recommend.filters.declared import DURATION
from vireo.server.recommend.filters.table import AttributeTable
from vireo.server.releases import layout
from vireo.training.data.attributes import all_attributes, attribute_column
from vireo.training.data.dataset import Dataset, load_dataset
from vireo.training.data.schema import INTERACTIONS, VIDEOS, VIEWERS
from vireo.training.data.synth.world import WorldConfig
from vireo.training.data.synth.writing import write_world
from vireo.training.data.writing import Tables, write_dataset
from vireo.training.release.attributes import write_attributes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    home = Home(tmp_path_factory.mktemp("home"))
    write_world(home, "synth", WorldConfig(viewers=20, videos=700, events=200))
    return load_dataset(home, "synth")


def exported(dataset: Dataset, folder: Path, popular: list[int] | None = None) -> AttributeTable:
    (folder / "videos").mkdir(parents=True)
    write_attributes(folder, dataset, np.array(popular or [0]))
    count = dataset.video_columns("video_id").num_rows
    table = AttributeTable.load(folder, count)
    assert table is not None
    return table


def known(dataset: Dataset) -> list[tuple[set[str], dict[str, float]]]:
    """Labels and numbers of each video, taken from the data set one by one."""
    declared = all_attributes(dataset.attributes)
    names = (*declared.labels, *declared.numbers)
    frame = dataset.video_columns(*map(attribute_column, names)).to_pandas()
    found: list[tuple[set[str], dict[str, float]]] = []
    for row in frame.to_dict("records"):
        labels: set[str] = set()
        for name in declared.labels:
            value: Any = row.get(attribute_column(name))
            values = [value] if isinstance(value, str) else [] if value is None else list(value)
            labels |= {f"{name}={each}" for each in values}
        numbers = {}
        for name in declared.numbers:
            value = row.get(attribute_column(name))
            if isinstance(value, pd.Timestamp):
                value = value.timestamp()
            if not pd.isna(value):
                # The shortest of the numbers that single precision can't tell apart.
                written = (
                    np.format_float_positional(np.float32(value)) if name == DURATION else value
                )
                numbers[name] = float(written)
        found.append((labels, numbers))
    return found


def read(table: AttributeTable) -> list[tuple[set[str], dict[str, float]]]:
    """Labels and numbers of each video, put together from a release's tables."""
    labels: list[set[str]] = [set() for _ in range(table.count)]
    for text in table.labels:
        rows = table.with_label(text).tolist()
        assert rows == sorted(set(rows))
        assert rows
        for row in rows:
            labels[row].add(text)
    return [
        (
            labels[row],
            {
                name: number
                for name, number in zip(table.declared.numbers, numbers, strict=True)
                if not math.isnan(number)
            },
        )
        for row, numbers in enumerate(table.numbers.tolist())
    ]


def test_a_release_has_the_attributes_of_its_data_set_row_by_row(
    world: Dataset, tmp_path: Path
) -> None:
    table = exported(world, tmp_path / "release")
    assert table.declared.labels == ("creator", "language", "region", "tag")
    assert table.declared.numbers == ("age_rating", "duration", "published")
    assert read(table) == known(world)


@pytest.fixture
def odd(tmp_path: Path) -> Dataset:
    """Values at the edges of what attributes may be."""
    home, count = Home(tmp_path / "home"), 60
    tags: list[list[str]] = [[] for _ in range(count)]
    tags[:4] = [["b", "a", "b"], ["é" * 64, "x" * 129], ["\U0001f600", "\uffff"], ["a=b", ""]]
    videos = {
        "video_id": [f"v{n}" for n in range(count)],
        "title": ["t"] * count,
        "tags": tags,
        "published": [-5_000_000_250_000, 10**17, *[None] * (count - 2)],
        "duration": [9.1, 0.0, *[None] * (count - 2)],
        "creator": ["", None, "ana", *["ben"] * (count - 3)],
        "attribute.a1": [["x"], None, ["x", "y"], *[[]] * (count - 3)],
        "attribute.a": [["x"], *[None] * (count - 1)],
        "attribute.a_b": [["x"], *[None] * (count - 1)],
        "attribute.none": pa.nulls(count, pa.list_(pa.string())),
        "attribute.score": [None, 0.1, -1e300, *[None] * (count - 3)],
    }
    kinds: dict[str, Any] = dict.fromkeys(("a1", "a", "a_b", "none"), "labels")
    fields = [*VIDEOS]
    fields += [pa.field(f"attribute.{name}", pa.list_(pa.string())) for name in kinds]
    fields.append(pa.field("attribute.score", pa.float64()))
    tables = Tables(
        pa.Table.from_pandas(random_interactions(), INTERACTIONS, preserve_index=False),
        pa.table(videos, pa.schema(fields)),
        pa.table({"viewer_id": ["w1"], "attributes": [[]]}, VIEWERS),
        kinds | {"score": "number"},
    )
    write_dataset(home, "odd", tables, "a test", "", {})
    return load_dataset(home, "odd")


def test_labels_are_sorted_each_once_and_none_is_longer_than_a_filter_may_ask_for(
    odd: Dataset, tmp_path: Path
) -> None:
    table = exported(odd, tmp_path / "release")
    texts = list(table.labels)
    assert texts == sorted(texts, key=str.encode)
    of_tag = {text: table.with_label(text).tolist() for text in texts if text.startswith("tag=")}
    assert of_tag == {
        "tag=a": [0],
        "tag=a=b": [3],
        "tag=b": [0],
        f"tag={'é' * 64}": [1],
        "tag=\uffff": [2],
        "tag=\U0001f600": [2],
    }
    others = [text for text in texts if text not in of_tag]
    assert others == ["a1=x", "a1=y", "a=x", "a_b=x", "creator=ana", "creator=ben"]
    assert [table.with_label(text).tolist() for text in others[:5]] == [[0, 2], [2], [0], [0], [2]]
    assert "none" in table.declared.labels


def test_numbers_are_as_they_were_written_and_unknown_ones_are_nan(
    odd: Dataset, tmp_path: Path
) -> None:
    table = exported(odd, tmp_path / "release")
    assert table.declared.numbers == ("duration", "published", "score")
    expected = [[9.1, -5_000_000.25, math.nan], [0, 1e11, 0.1], [math.nan, math.nan, -1e300]]
    assert np.array_equal(table.numbers[:3], np.array(expected), equal_nan=True)
    assert np.isnan(table.numbers[3:]).all()


def test_popular_videos_have_their_attributes_in_the_order_of_the_list(
    odd: Dataset, tmp_path: Path
) -> None:
    table = exported(odd, tmp_path / "release", [2, 5, 0])
    text = (tmp_path / "release" / layout.POPULAR_ATTRIBUTES).read_text()
    videos = read(table)
    assert json.loads(text) == [
        {"labels": sorted(videos[row][0], key=str.encode), "numbers": videos[row][1]}
        for row in (2, 5, 0)
    ]
