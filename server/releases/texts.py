"""Many texts in one memory-mapped file: a million ids need no Python objects.

The file is int64 n, int64[n + 1] offsets into the rest, and the texts one after the other in
UTF-8; numbers are little-endian.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from vireo.server.releases.manifest import ReleaseError

_NUMBER = np.dtype("<i8")


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
        _check(path, start, count)
    except (OSError, ValueError, IndexError) as error:
        raise ReleaseError(f"{path}: can't be read as texts: {error}") from error
    return Texts(offsets, content)


def _check(path: Path, start: int, count: int) -> None:
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
