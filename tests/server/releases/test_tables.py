"""A file of a release is read as what it should be, or refused as a release, and never else."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.tables import (
    read_mapped_texts,
    read_table,
    read_texts,
    read_vocabulary,
    write_texts,
)


def table_bytes() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(40, dtype=np.float32).reshape(10, 4))
    return file.getvalue()


def read_or_refused(content: bytes) -> None:
    """Anything else than ReleaseError fails the test."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "table").write_bytes(content)
        try:
            table = read_table(Path(folder), "table", np.float32, (None, 4))
        except ReleaseError:
            return
        assert np.isfinite(table).all()


@given(st.data())
def test_any_bytes_and_a_table_with_bytes_changed_or_cut_off_are_read_or_refused(
    data: st.DataObject,
) -> None:
    read_or_refused(table_bytes()[: data.draw(st.sampled_from([0, 8]))] + data.draw(st.binary()))
    content = bytearray(table_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    read_or_refused(bytes(content[: data.draw(st.integers(0, len(content)))]))


def test_trailing_data_in_a_tables_file_is_refused(tmp_path: Path) -> None:
    # Finite values are looked for at the end of the file: these would be looked at instead.
    damaged = bytearray(table_bytes())
    damaged[128:132] = np.float32(np.nan).tobytes()
    (tmp_path / "table").write_bytes(damaged + bytes(4))
    with pytest.raises(ReleaseError, match="has more than one"):
        read_table(tmp_path, "table", np.float32, (None, 4))


@pytest.mark.parametrize(
    "text",
    [b"", b"[" * 100_000, b'["\\ud800"]', b"[1]", b'["a", null]', b"\xff", b'{"a": 1}', b"[NaN]"],
)
def test_a_file_that_is_no_list_of_texts_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "texts").write_bytes(text)
    with pytest.raises(ReleaseError, match="texts: can't be read"):
        read_texts(tmp_path, "texts")


@pytest.mark.parametrize("number", [0, -1, 3, 10**30, 1.5, "NaN", "[1]", '"x"'])
def test_a_vocabulary_with_a_number_that_no_model_has_learned_is_refused(
    tmp_path: Path, number: Any
) -> None:
    (tmp_path / "vocabulary").write_text(f'{{"a": 1, "b": {number}}}')
    with pytest.raises(ReleaseError, match=r"vocabulary: (has the number|can't be read)"):
        read_vocabulary(tmp_path, "vocabulary")


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


def test_a_text_beyond_the_last_is_an_error(tmp_path: Path) -> None:
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
def test_a_damaged_file_of_texts_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "texts.bin"
    path.write_bytes(content)
    with pytest.raises(ReleaseError, match=message):
        read_mapped_texts(path, 2)
