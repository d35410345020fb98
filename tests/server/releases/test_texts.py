from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.texts import read_mapped_texts, write_texts


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_are_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("texts") / "texts.bin"
    write_texts(path, texts)
    found = read_mapped_texts(path, len(texts))
    assert [found[row] for row in range(len(found))] == texts
    assert list(found) == found[:] == texts
    assert found[-2:] == texts[-2:]


def test_a_row_beyond_the_last_is_an_error(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts.bin", ["a", "b"])
    texts = read_mapped_texts(tmp_path / "texts.bin", 2)
    assert texts[-1] == "b"
    with pytest.raises(IndexError):
        texts[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "can't be read as texts"),
        (np.array([2, 0, 1]).tobytes(), "can't be read as texts"),
        (np.array([2, 0, 1, 5]).tobytes() + b"ab", "its offsets don't fit its size"),
        (np.array([2, 0, 3, 2]).tobytes() + b"ab", "its offsets don't fit its size"),
        (np.array([2, 0, 1, 2]).tobytes() + b"\xff\xfe", "can't decode"),
        (np.array([2, 0, 1, 2]).tobytes() + "ü".encode(), "begins within a character"),
        (np.array([3, 0, 1, 2, 2]).tobytes() + b"ab", "has 3 texts instead of 2"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "texts.bin"
    path.write_bytes(content)
    with pytest.raises(ReleaseError, match=message):
        read_mapped_texts(path, 2)
