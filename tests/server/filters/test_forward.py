"""The forward index has the same labels as the inverted one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from server.filters.declared import label
from server.filters.forward import ForwardIndex
from server.filters.table import AttributeTable
from server.releases.manifest import Manifest
from tests.builders.attributes import labels_of
from tests.builders.releases import CREATORS, build_release


def test_it_has_the_labels_of_each_video(tmp_path: Path) -> None:
    folder = build_release(tmp_path / "release")
    table = AttributeTable.load(folder, Manifest.read(folder), 40)
    assert table is not None
    forward = ForwardIndex(table)
    rows = np.array([7, 0, 39, 7])
    for attribute in table.declared.labels:
        found = forward.labels_of(rows, attribute)
        for row, places in zip(rows.tolist(), found, strict=True):
            texts = {each for each in labels_of(row, CREATORS) if each.startswith(f"{attribute}=")}
            assert {table.labels[place] for place in places.tolist()} == texts
            assert {forward.place(text) for text in texts} == {*places.tolist()}
    assert forward.place(label("tag", "none such")) == -1
