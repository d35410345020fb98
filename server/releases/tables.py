"""Reads a release's tables, mapped into memory so that the pods of a machine share them.

Many texts are one file: a million ids need no Python objects. It is int64 n, int64[n + 1] offsets
into the rest, and the texts one after the other in UTF-8; numbers are little-endian.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from vireo.server.features.keys import video_key
from vireo.server.releases.fields import first_problem, shown
from vireo.server.releases.manifest import ReleaseError

_COMPARED_IDS = 1000
_CHECKED_AT_A_TIME = 1 << 20
_NUMBER = np.dtype("<i8")
_TEXTS = TypeAdapter(list[str])
_NUMBERS = TypeAdapter(dict[str, int])
VECTOR_TYPES = (np.float32, np.float16)
"""Dtypes of vectors: those of a large catalogue are in half precision."""


def read_table(
    folder: Path,
    path: str,
    dtype: type[np.generic] | tuple[type[np.generic], ...],
    shape: tuple[int | None, ...],
    *,
    missing: bool = False,
) -> npt.NDArray[Any]:
    """Return the .npy table at `path` below `folder`, read-only and mapped.

    Its numbers are finite, or NaN if `missing` allows values that aren't known.

    Raises:
        ReleaseError: it can't be read, or has another dtype or shape (None: any size).
    """
    file = folder / path
    try:
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        # NumPy evaluates a header as Python: besides OSError and ValueError it raises EOFError,
        # TypeError, and the errors of the tokenizer and of zipfile.
        raise ReleaseError(f"{file}: can't be read as a table: {shown(str(error))}") from error
    if not isinstance(mapped, np.ndarray):
        raise ReleaseError(f"{file}: can't be read as a table: it is an archive of several")
    # A plain view of the mapping: np.memmap itself is slow to index.
    table: npt.NDArray[Any] = np.asarray(mapped)
    if isinstance(mapped, np.memmap) and file.stat().st_size != mapped.offset + table.nbytes:
        raise ReleaseError(f"{file}: can't be read as a table: it has more than one")
    fits = len(table.shape) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, table.shape, strict=True)
    )
    types = dtype if isinstance(dtype, tuple) else (dtype,)
    if table.dtype not in types or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        kinds = " or ".join(str(np.dtype(kind)) for kind in types)
        raise ReleaseError(f"{file}: is {table.dtype}{list(table.shape)}, not {kinds}[{wanted}]")
    if table.dtype.kind == "f" and not missing and not all(map(_is_finite, _parts(file, table))):
        raise ReleaseError(f"{file}: has values that aren't finite")
    if missing and any(np.isinf(part).any() for part in _parts(file, table)):
        raise ReleaseError(f"{file}: has infinite values")
    return table


def _is_finite(values: npt.NDArray[Any]) -> bool:
    if values.dtype == np.float16:  # By its bits: NumPy is slow with halves.
        return bool((values.view(np.uint16) & 0x7C00).max() < 0x7C00)
    return bool(np.isfinite(values.min()) and np.isfinite(values.max()))  # NaN passes through.


def _parts(file: Path, table: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the values of a table that is at the end of its file, in parts.

    They are read, not mapped: pages of a mapping that were read count as the process's memory.
    """
    offset = file.stat().st_size - table.nbytes
    for start in range(0, table.size, _CHECKED_AT_A_TIME):
        count = min(_CHECKED_AT_A_TIME, table.size - start)
        yield np.fromfile(file, table.dtype, count, offset=offset + start * table.itemsize)


def read_rows(
    folder: Path,
    path: str,
    dtype: type[np.generic],
    shape: tuple[int | None, ...],
    *,
    videos: int,
    lowest: int = 0,
) -> npt.NDArray[Any]:
    """Return the table of row numbers at `path`, each at least `lowest` and below `videos`.

    Raises:
        ReleaseError: see `read_table`; or a row number is out of range.
    """
    rows = read_table(folder, path, dtype, shape)
    for part in _parts(folder / path, rows):
        check_rows(folder / path, part, videos, lowest)
    return rows


def check_rows(file: Path, rows: npt.NDArray[Any], videos: int, lowest: int = 0) -> None:
    """Raise ReleaseError unless each row number is at least `lowest` and below `videos`."""
    if rows.size and not lowest <= rows.min() <= rows.max() < videos:
        wrong = rows.max() if rows.max() >= videos else rows.min()
        raise ReleaseError(f"{file}: names row {wrong}, the release has rows 0 to {videos - 1}")


def read_ids(folder: Path, path: str, keys: npt.NDArray[np.int64]) -> Texts:
    """Return the ids at `path`, one for each of `keys`, int64[n]; raise ReleaseError if unfit.

    Only a sample is compared with its keys: hashing all of a large catalogue takes a second.
    """
    ids = read_mapped_texts(folder / path, len(keys))
    for row in range(0, len(ids), max(1, len(ids) // _COMPARED_IDS)):
        if video_key(ids[row]) != keys[row]:
            raise ReleaseError(f"{folder / path}: {ids[row]!r} doesn't have the key of row {row}")
    return ids


def read_texts(folder: Path, path: str) -> list[str]:
    """Return the JSON list of texts at `path`; raise ReleaseError if it isn't one."""
    texts: list[str] = _read_json(folder / path, _TEXTS)
    return texts


def read_vocabulary(folder: Path, path: str) -> dict[str, int]:
    """Return the JSON object of text to number at `path` below `folder`, numbered from 1.

    Raises:
        ReleaseError: it can't be read, or a number exceeds the count of texts, and so what a model
            has learned.
    """
    vocabulary: dict[str, int] = _read_json(folder / path, _NUMBERS)
    for number in vocabulary.values():
        if not 1 <= number <= len(vocabulary):
            raise ReleaseError(
                f"{folder / path}: has the number {shown(str(number))}, must have 1 to "
                f"{len(vocabulary)}"
            )
    return vocabulary


def _read_json(file: Path, kind: TypeAdapter[Any]) -> Any:
    try:
        return kind.validate_json(file.read_bytes())
    except ValidationError as error:
        raise ReleaseError(f"{file}: can't be read: {first_problem(error)}") from error
    except OSError as error:
        raise ReleaseError(f"{file}: can't be read: {error}") from error


class Texts(Sequence[str]):
    """The texts of a file, decoded on access."""

    def __init__(self, offsets: npt.NDArray[np.int64], content: npt.NDArray[np.uint8]) -> None:
        """Start with `offsets` of each text, int64[n + 1], into `content`, UTF-8, uint8[bytes]."""
        self._offsets = offsets
        self._content = content
        self._bytes = content.data
        """The content as a memoryview, which is faster to slice."""

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        first = row % len(self)
        start, stop = self._offsets[first : first + 2].tolist()
        return str(self._bytes[start:stop], "utf-8")

    def __iter__(self) -> Iterator[str]:
        content, offsets = self._content.tobytes(), self._offsets.tolist()
        for start, stop in itertools.pairwise(offsets):
            yield content[start:stop].decode()


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """Write the file at `path`."""
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=_NUMBER)
    with path.open("wb") as file:
        file.write(np.array([len(encoded)], _NUMBER).tobytes())
        file.write(offsets.tobytes())
        file.writelines(encoded)


def read_mapped_texts(path: Path, count: int) -> Texts:
    """Return the `count` texts of the file at `path`, mapped.

    Raises:
        ReleaseError: it can't be read, has another number of texts, or one isn't UTF-8.
    """
    try:
        stored = int(np.fromfile(path, _NUMBER, 1)[0])
        if stored != count:
            raise ReleaseError(f"{path}: has {stored} texts instead of {count}")
        # Plain views of the mapping: np.memmap itself is slow to index.
        offsets = np.asarray(np.memmap(path, _NUMBER, "r", _NUMBER.itemsize, (count + 1,)))
        start = (count + 2) * _NUMBER.itemsize
        size = path.stat().st_size - start
        content = np.zeros(0, np.uint8)
        if size:
            content = np.asarray(np.memmap(path, np.uint8, "r", start, (size,)))
        _check_texts(path, start, count)
    except (OSError, ValueError, IndexError) as error:
        raise ReleaseError(f"{path}: can't be read as texts: {error}") from error
    return Texts(offsets, content)


def _check_texts(path: Path, start: int, count: int) -> None:
    """Raise ValueError unless the texts are contiguous, each in UTF-8.

    Reads the file: pages of the mapping that were read would count as the process's memory.
    """
    offsets = np.fromfile(path, _NUMBER, count + 1, offset=_NUMBER.itemsize)
    content = np.fromfile(path, np.uint8, offset=start)
    if offsets[0] != 0 or offsets[-1] != len(content) or (np.diff(offsets) < 0).any():
        raise ValueError("its offsets don't fit its size")
    content.tobytes().decode()
    begin = offsets[:-1][np.diff(offsets) > 0]
    if (content[begin] & 0xC0 == 0x80).any():
        raise ValueError("a text begins within a character")
