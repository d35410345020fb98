"""The attributes of a release: masks of many videos, and files that are refused."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders.attributes import labels_of, numbers_of, write_attributes
from tests.builders.filters import condition, expression, random_expression
from tests.builders.releases import CREATORS, build_release, write_manifest
from vireo.server.recommend.filters.declared import Declared
from vireo.server.recommend.filters.table import AttributeTable
from vireo.server.releases import layout
from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.texts import write_texts

COUNT = 40
LABELS = {"tag": ["", "=", "a", "ä", "b", "\U0001f431"], "creator": ["ann", "bob", "cy"]}
NUMBERS = {"duration": [0.0, 60.0, 600.0], "published": [-1e9, 0.0, 2e9]}


def loaded(folder: Path, count: int = COUNT) -> AttributeTable:
    table = AttributeTable.load(folder, count)
    assert table is not None
    return table


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_a_mask_says_of_every_video_what_the_filter_says(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.choice([0, 1, 7, 100])
    density = draw.choice([0.0, 0.2, 0.7])
    labels = [
        {
            f"{name}={value}"
            for name, values in LABELS.items()
            for value in values
            if draw.random() < density
        }
        for _ in range(count)
    ]
    numbers = [
        {name: draw.choice([*values, math.nan]) for name, values in NUMBERS.items()}
        for _ in range(count)
    ]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / layout.LABELS).parent.mkdir()
        declared = Declared(tuple(sorted(LABELS)), tuple(sorted(NUMBERS)))
        write_attributes(folder, declared, labels, numbers, [])
        table = loaded(folder, count)
        for _ in range(10):
            _, asked = random_expression(draw, LABELS, NUMBERS)
            said = [asked.holds(*each) for each in zip(labels, numbers, strict=True)]
            assert table.mask(asked).tolist() == said


def test_the_tables_of_a_release_hold_what_its_videos_have(tmp_path: Path) -> None:
    table = loaded(build_release(tmp_path))
    asked = expression(
        condition("language", any_of=["de"]), condition("tag", none_of=["cat", "mouse"])
    )

    said = [asked.holds(labels_of(row, CREATORS), numbers_of(row)) for row in range(COUNT)]
    assert table.mask(asked).tolist() == said
    assert 0 < sum(said) < COUNT


def no_numbers(folder: Path) -> None:
    (folder / layout.NUMBERS).unlink()


def numbers_of_others(folder: Path) -> None:
    np.save(folder / layout.NUMBERS, np.zeros((COUNT, 2)))


def infinite_numbers(folder: Path) -> None:
    np.save(folder / layout.NUMBERS, np.full((COUNT, 3), np.inf))


def rows_beyond(folder: Path) -> None:
    rows = np.load(folder / layout.LABEL_ROWS)
    rows[-1] = COUNT
    np.save(folder / layout.LABEL_ROWS, rows)


def offsets_short(folder: Path) -> None:
    np.save(folder / layout.LABEL_OFFSETS, np.load(folder / layout.LABEL_OFFSETS)[:-1])


def no_offsets(folder: Path) -> None:
    np.save(folder / layout.LABEL_OFFSETS, np.zeros(0, np.int64))


def offsets_back(folder: Path) -> None:
    offsets = np.load(folder / layout.LABEL_OFFSETS)
    offsets[[1, 2]] = offsets[[2, 1]]
    np.save(folder / layout.LABEL_OFFSETS, offsets)


def labels_unsorted(folder: Path) -> None:
    count = len(np.load(folder / layout.LABEL_OFFSETS)) - 1
    write_texts(folder / layout.LABELS, [f"tag={row}" for row in range(count, 0, -1)])


def labels_missing(folder: Path) -> None:
    write_texts(folder / layout.LABELS, ["tag=cat"])


def declared_twice(folder: Path) -> None:
    document = {"labels": ["creator", "duration"], "numbers": ["duration"]}
    (folder / layout.ATTRIBUTES).write_text(json.dumps(document))


def declared_unsorted(folder: Path) -> None:
    document = {"labels": ["tag", "creator"], "numbers": ["duration"]}
    (folder / layout.ATTRIBUTES).write_text(json.dumps(document))


def declared_badly(folder: Path) -> None:
    document = {"labels": ["a=b"], "numbers": []}
    (folder / layout.ATTRIBUTES).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_numbers, r"videos/numbers\.npy"),
        (numbers_of_others, r"numbers\.npy: is float64\[40, 2\], not float64\[40, 3\]"),
        (infinite_numbers, r"numbers\.npy: has infinite values"),
        (rows_beyond, r"label_rows\.npy: names row 40"),
        (offsets_short, r"label_offsets\.npy: must go from 0 to \d+"),
        (no_offsets, r"label_offsets\.npy: must go from 0 to \d+"),
        (offsets_back, r"label_offsets\.npy: must not descend"),
        (labels_unsorted, r"labels\.bin: '.*' must not follow"),
        (labels_missing, r"labels\.bin: has 1 texts instead of \d+"),
        (declared_twice, r"attributes\.json: declares an attribute twice"),
        (declared_unsorted, r"attributes\.json: tag, creator must be sorted"),
        (declared_badly, r"attributes\.json: can't be read: labels\.0"),
    ],
)
def test_damaged_attributes_are_refused_by_the_file(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = build_release(tmp_path)
    damage(folder)
    manifest = write_manifest(folder)
    with pytest.raises(ReleaseError, match=message):
        AttributeTable.load(folder, COUNT)
    assert manifest.files
