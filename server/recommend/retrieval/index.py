"""The index of video vectors: nearest neighbours with exclusions, from a mapped file.

The release's manifest has its kind and the number of cells to search, which `training/release`
chose by measured recall.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from vireo.server.arrays import BoolArray, Float32Array, Int64Array
from vireo.server.releases.manifest import IndexDescription, ReleaseError
from vireo.server.releases.tables import check_rows

_FILTERED_EFFORT = 0.7
"""Geometric mean of the videos that a filter holds for and of all, in the cells that a filtered
search probes, over the videos in those that a search without a filter does. Measured on a million
videos: recall then is at least 0.96, at random and by content."""
_PASSING_PER_RESULT = 4
"""Minimum videos that the filter holds for in those cells, per result that is wanted: with two,
recall is below 0.95 for filters of a fiftieth of the videos and less."""
_SORTED_CELLS = 256
"""Cells that are sorted by their distance before all are."""


RowBits = npt.NDArray[np.uint8]
"""Sets of rows, one bit a row, the lowest of a byte first, as faiss reads them.

uint8[ceil(n / 8)] for n rows; bits beyond them mean nothing, and no row may be negative."""


def every_row(count: int) -> RowBits:
    """Return the set of all `count` rows."""
    return np.full((count + 7) // 8, 255, np.uint8)


def add(bits: RowBits, rows: Int64Array) -> None:
    """Add rows, int64[k], to a set."""
    np.bitwise_or.at(bits, rows >> 3, (1 << (rows & 7)).astype(np.uint8))


def remove(bits: RowBits, rows: Int64Array) -> None:
    """Remove rows, int64[k], from a set."""
    np.bitwise_and.at(bits, rows >> 3, ~(1 << (rows & 7)).astype(np.uint8))


def contains(bits: RowBits, rows: npt.NDArray[np.signedinteger]) -> BoolArray:
    """Return which of some rows, int[k], a set has, bool[k]."""
    return (bits.take(rows >> 3) >> (rows & 7) & 1).astype(np.bool_)


def mask_of(bits: RowBits, count: int) -> BoolArray:
    """Return for each of `count` rows whether a set has it, bool[count]: a new array."""
    return np.unpackbits(bits, count=count, bitorder="little").view(np.bool_)


class VideoIndex:
    """A faiss inner-product index whose ids are rows. Safe to use from several threads."""

    def __init__(self, index: Any, description: IndexDescription) -> None:
        """Search `index` as its description says."""
        self._index = index
        self.cells: int = index.nlist if isinstance(index, faiss.IndexIVF) else 0
        """Number of its cells; 0 if it is exact."""
        self.exact = not self.cells
        """Whether it compares the query with every vector."""
        self._probes = min(description.probes or self.cells, self.cells)
        # What filtered searches read takes 2 bytes a video and a vector for each cell: 3 MB, and
        # 40 ms here, for a million videos of 64 dimensions.
        self._cell_of_row = np.zeros(index.ntotal, np.min_scalar_type(self.cells))
        """Cell of each row, as the narrowest unsigned integers."""
        if self.cells:
            self._centres: Float32Array = index.quantizer.reconstruct_n(0, self.cells)
            """Centre of each cell, float32[cells, d]."""
            for cell, rows in _rows_by_cell(index):
                self._cell_of_row[rows] = cell
        self._cell_sizes: Int64Array = np.bincount(self._cell_of_row, minlength=self.cells)
        """Number of videos in each cell, int64[cells]."""

    @staticmethod
    def read(file: Path, description: IndexDescription, count: int, size: int) -> VideoIndex:
        """Return the index of `count` vectors of `size` dimensions in `file`.

        Its vectors are mapped: read into memory when searched, once for all processes of the
        machine.

        Raises:
            ReleaseError: it can't be read, or isn't such an index.
        """
        try:
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ReleaseError(f"{file}: faiss can't read the index: {error}") from error
        if index.d != size:
            raise ReleaseError(
                f"{file}: has vectors of {index.d} dimensions, "
                f"feature_schema.vector_size of the release is {size}"
            )
        if index.ntotal != count:
            raise ReleaseError(
                f"{file}: has {index.ntotal} vectors, the release has {count} videos"
            )
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ReleaseError(f"{file}: the index must search by inner product")
        _check_ids(file, index, count)
        return VideoIndex(index, description)

    def nearest(self, vector: Float32Array, limit: int, allowed: RowBits | None) -> Int64Array:
        """Return the rows of the videos with the largest inner products, best first.

        Args:
            vector: float32[d].
            limit: number of rows; fewer only if there are no more.
            allowed: the rows to choose from; None for all.
        """
        limit = min(limit, self._index.ntotal)
        if limit == 0:
            return np.empty(0, np.int64)
        rows: Int64Array = np.empty(0, np.int64)
        for probes in sorted({self._probes, self.cells}):
            rows = self._search(vector, limit, allowed, probes)
            if rows[-1] >= 0:
                break  # else the probed cells have too few
        return rows[rows >= 0]

    def nearest_in(
        self, cells: Int64Array, vector: Float32Array, limit: int, allowed: RowBits
    ) -> Int64Array:
        """Return the rows with the largest inner products in some cells, best first.

        Args:
            cells: those to look in, the nearest first, int64[p]; all if these have too few.
            vector: float32[d].
            limit: number of rows, at least 1; fewer only if there are no more.
            allowed: the rows to choose from.
        """
        limit = min(limit, self._index.ntotal)
        rows = self._in_cells(vector, limit, allowed, cells)
        if rows[-1] < 0:
            rows = self._search(vector, limit, allowed, self.cells)
        return rows[rows >= 0]

    def _search(
        self, vector: Float32Array, limit: int, allowed: RowBits | None, probes: int
    ) -> Int64Array:
        found: Int64Array = self._index.search(
            vector[None], limit, params=self._parameters(allowed, probes)
        )[1][0]
        return found

    def _parameters(self, allowed: RowBits | None, probes: int) -> Any:
        """Return those of a search, which refer to the memory of `allowed`."""
        bitmap: Any = faiss.IDSelectorBitmap
        kind: Any = faiss.SearchParametersIVF if self.cells else faiss.SearchParameters
        selector = None if allowed is None else bitmap(allowed)
        return kind(sel=selector, nprobe=probes) if self.cells else kind(sel=selector)

    def cells_worth_probing(
        self, vector: Float32Array, limit: int, passing: Int64Array
    ) -> Int64Array:
        """Return the cells to look in for the nearest allowed rows, the nearest first, int64[p].

        The nearest cells may have no allowed row: the nearest of those that have some are taken,
        and the more, the fewer of their rows are allowed.

        Args:
            vector: float32[d].
            limit: number of rows that are wanted.
            passing: number of allowed rows in each cell, int64[cells].
        """
        wanted = _PASSING_PER_RESULT * limit
        distance = np.where(passing, self._centres @ -vector, np.inf)
        for most in sorted({min(_SORTED_CELLS, self.cells), self.cells}):
            # Most filters need few cells, and to sort all takes a fifth of a retrieval.
            cells = np.argpartition(distance, most - 1)[:most]
            cells = cells[np.argsort(distance[cells])]
            found = passing[cells].cumsum()
            compared = np.sqrt(found * self._cell_sizes[cells].cumsum())
            if compared[-1] >= self._effort and found[-1] >= wanted:
                break
        last = max(np.searchsorted(compared, self._effort), np.searchsorted(found, wanted))
        return cells[: int(last) + 1]

    def _in_cells(
        self, vector: Float32Array, limit: int, allowed: RowBits, cells: Int64Array
    ) -> Int64Array:
        """Search some cells alone, the nearest first."""
        nearness = self._centres.take(cells, axis=0) @ vector
        scores, rows = np.empty(limit, np.float32), np.empty(limit, np.int64)
        pointer: Any = faiss.swig_ptr
        # The wrapper of this takes no parameters.
        self._index.search_preassigned_c(
            1,
            pointer(vector),
            limit,
            pointer(cells),
            pointer(nearness),
            pointer(scores),
            pointer(rows),
            False,
            self._parameters(allowed, len(cells)),
        )
        return rows

    def cells_of(self, rows: Int64Array) -> npt.NDArray[Any]:
        """Return the cell of each of some rows, int[m]; empty if there are no cells."""
        return self._cell_of_row.take(rows) if self.cells else rows[:0]

    @property
    def _effort(self) -> float:
        count: int = self._index.ntotal
        return _FILTERED_EFFORT * self._probes * count / self.cells


def _rows_by_cell(index: Any) -> Iterator[tuple[int, Int64Array]]:
    """Yield each cell that has vectors, and their rows."""
    lists: Any = index.invlists
    for cell in range(index.nlist):
        if count := lists.list_size(cell):
            yield cell, faiss.rev_swig_ptr(lists.get_ids(cell), count)


def _check_ids(file: Path, index: Any, count: int) -> None:
    """Raise ReleaseError if an id that the index stores is no row; most indices store none."""
    if isinstance(index, faiss.IndexIDMap):
        check_rows(file, faiss.vector_to_array(index.id_map), count)
    if isinstance(index, faiss.IndexIVF):
        for _, rows in _rows_by_cell(index):
            check_rows(file, rows, count)
