"""The forward index has the same labels as the inverted one."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from tests.builders.attributes import labels_of
from tests.builders.releases import CREATORS
from vireo.server.recommend.filters.declared import label
from vireo.server.recommend.filters.forward import ForwardIndex
from vireo.server.recommend.filters.table import AttributeTable


@pytest.fixture
def table(release_folder: Path) -> AttributeTable:
    loaded = AttributeTable.load(release_folder, 40)
    assert loaded is not None
    return loaded


def test_it_has_the_labels_of_each_video(table: AttributeTable) -> None:
    forward = ForwardIndex(table)
    rows = np.array([7, 0, 39, 7])
    for attribute in table.declared.labels:
        found = forward.labels_of(rows, attribute)
        for row, places in zip(rows.tolist(), found, strict=True):
            texts = {each for each in labels_of(row, CREATORS) if each.startswith(f"{attribute}=")}
            assert {table.labels[place] for place in places.tolist()} == texts
            assert {forward.place(text) for text in texts} == {*places.tolist()}
    assert forward.place(label("tag", "none such")) == -1


def test_an_attribute_is_read_while_another_is_made(
    table: AttributeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, rows = ForwardIndex(table), np.array([7])
    before = forward.labels_of(rows, "tag")
    assert forward.has("tag")
    assert not forward.has("creator")
    begun, may_end, made = Event(), Event(), list[str]()
    transposed = ForwardIndex._transposed

    def slowly(self: ForwardIndex, attribute: str) -> object:
        made.append(attribute)
        begun.set()
        may_end.wait(10)
        return transposed(self, attribute)

    monkeypatch.setattr(ForwardIndex, "_transposed", slowly)
    threads = [Thread(target=forward.make, args=("creator",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    assert [each.tolist() for each in forward.labels_of(rows, "tag")] == [
        each.tolist() for each in before
    ]
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert made == ["creator"]
    assert forward.has("creator")
