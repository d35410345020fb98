"""The attributes of a release: masks of many videos, and files that are refused."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders.attributes import labels_of, write_attributes
from tests.builders.damage import Damage, changed, content, missing, table, texts
from tests.builders.filters import random_expression
from tests.builders.releases import CREATORS, build_release
from vireo.server.recommend.filters.declared import Declared
from vireo.server.recommend.filters.table import AttributeTable, ForwardIndex, mask_of
from vireo.server.releases import layout
from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.tables import write_texts

COUNT = 40
LABELS = {"tag": ["", "=", "a", "ä", "b", "\U0001f431"], "creator": ["ann", "bob", "cy"]}
NUMBERS = {"duration": [0.0, 60.0, 600.0], "published": [-1e9, 0.0, 2e9]}


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
        attributes = AttributeTable.load(folder, count)
        for _ in range(10):
            _, asked = random_expression(draw, LABELS, NUMBERS)
            said = [asked.holds(*each) for each in zip(labels, numbers, strict=True)]
            assert mask_of(asked, attributes).tolist() == said


LACKING = {"labels": ["creator", "tag"], "numbers": ["duration"]}
TWICE = {"labels": ["creator", "duration"], "numbers": ["duration"]}
UNSORTED = {"labels": ["tag", "creator"], "numbers": ["duration", "published"]}


def second_before_first(offsets: np.ndarray) -> np.ndarray:
    offsets[[1, 2]] = offsets[[2, 1]]
    return offsets


def labels_unsorted(folder: Path) -> None:
    count = len(np.load(folder / layout.LABEL_OFFSETS)) - 1
    write_texts(folder / layout.LABELS, [f"tag={row}" for row in range(count, 0, -1)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing(layout.NUMBERS), r"videos/numbers\.npy"),
        (
            table(layout.NUMBERS, np.zeros((COUNT, 2))),
            r"numbers\.npy: is float64\[40, 2\], not float64\[40, 3\]",
        ),
        (
            table(layout.NUMBERS, np.full((COUNT, 3), np.inf)),
            r"numbers\.npy: has infinite values",
        ),
        (
            changed(
                layout.LABEL_ROWS, lambda rows: np.where(rows == 1, rows.dtype.type(COUNT), rows)
            ),
            r"label_rows\.npy: names row 40",
        ),
        (
            changed(layout.LABEL_OFFSETS, lambda offsets: offsets[:-1]),
            r"label_offsets\.npy: must go from 0 to \d+",
        ),
        (
            table(layout.LABEL_OFFSETS, np.zeros(0, np.int64)),
            r"label_offsets\.npy: must go from 0 to \d+",
        ),
        (
            changed(layout.LABEL_OFFSETS, second_before_first),
            r"label_offsets\.npy: must not descend",
        ),
        (labels_unsorted, r"labels\.bin: '.*' must not follow"),
        (texts(layout.LABELS, ["tag=cat"]), r"labels\.bin: has 1 texts instead of \d+"),
        (
            content(layout.ATTRIBUTES, json.dumps(TWICE)),
            r"attributes\.json: declares an attribute twice",
        ),
        (
            content(layout.ATTRIBUTES, json.dumps(LACKING)),
            r"attributes\.json: must declare published; train the release again",
        ),
        (
            content(layout.ATTRIBUTES, json.dumps(UNSORTED)),
            r"attributes\.json: tag, creator must be sorted",
        ),
        (
            content(layout.ATTRIBUTES, '{"labels": ["a=b"], "numbers": []}'),
            r"attributes\.json: can't be read: labels\.0",
        ),
    ],
)
def test_damaged_attributes_are_refused_by_the_file(
    tmp_path: Path, damage: Damage, message: str
) -> None:
    folder = build_release(tmp_path)
    damage(folder)
    with pytest.raises(ReleaseError, match=message):
        AttributeTable.load(folder, COUNT)


def test_the_forward_index_has_the_labels_of_each_video(release_folder: Path) -> None:
    table = AttributeTable.load(release_folder, COUNT)
    forward, rows = ForwardIndex(table), np.array([7, 0, 39, 7])
    for attribute in table.declared.labels:
        assert not forward.has(attribute)
        for row, places in zip(rows.tolist(), forward.labels_of(rows, attribute), strict=True):
            texts = {each for each in labels_of(row, CREATORS) if each.startswith(f"{attribute}=")}
            assert {table.labels[place] for place in places.tolist()} == texts
            assert {table.place(text) for text in texts} == {*places.tolist()}
        assert forward.has(attribute)
    assert table.place("tag=none such") == -1
