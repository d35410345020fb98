"""The index of video vectors: nearest neighbours with exclusions, from a mapped file.

The release's manifest has its kind and the number of cells to search, which `training/release`
chose by measured recall.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import numpy.typing as npt

from server.arrays import Float32Array, Int64Array
from server.releases.manifest import IndexDescription, ReleaseError
from server.releases.tables import check_rows

if TYPE_CHECKING:
    from server.candidate.allowed import Allowed

_FILTERED_EFFORT = 0.75
"""Geometric mean of the videos that a filter holds for and of all, in the cells that a filtered
search probes, over the videos in those that a search without a filter does. Measured on a million
videos: recall then is at least 0.96 for filters of half and a tenth of them, at random and by
content."""
_SORTED_CELLS = 256
"""Cells that are sorted by their distance before all are."""


class VideoIndex:
    """A faiss inner-product index whose ids are rows. Safe to use from several threads."""

    def __init__(self, index: Any, description: IndexDescription) -> None:
        """Search `index` as its description says."""
        self._index = index
        self._cells = index.nlist if isinstance(index, faiss.IndexIVF) else 0
        self._probes = min(description.probes or self._cells, self._cells)

    @property
    def exact(self) -> bool:
        """Whether it compares the query with every vector."""
        return not self._cells

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

    def nearest(self, vector: Float32Array, limit: int, excluded: Int64Array) -> Int64Array:
        """Return the rows of the videos with the largest inner products, best first.

        Args:
            vector: float32[d].
            limit: number of rows; fewer only if there are no more.
            excluded: rows to leave out, int64[e].
        """
        total = self._index.ntotal
        limit = min(limit, total)
        if limit == 0:
            return np.empty(0, np.int64)
        selector, _bits = _all_but(excluded, total)
        kind: Any = faiss.SearchParametersIVF if self._cells else faiss.SearchParameters
        for probes in sorted({self._probes, self._cells}):
            parameters = kind(sel=selector, nprobe=probes) if self._cells else kind(sel=selector)
            rows: Int64Array = self._index.search(vector[None], limit, params=parameters)[1][0]
            if rows[-1] >= 0:
                break  # else the probed cells have too few
        return rows[rows >= 0]

    def nearest_allowed(
        self,
        vector: Float32Array,
        limit: int,
        excluded: Int64Array,
        allowed: Allowed,
        also: Int64Array,
    ) -> Int64Array:
        """Return the rows with the largest inner products of those that a filter holds for.

        The nearest cells may have none of them: the nearest of those that have some are probed, and
        the more, the fewer of their videos the filter holds for.

        Args:
            vector: float32[d].
            limit: number of rows; fewer only if there are no more.
            excluded: rows to leave out, int64[e].
            allowed: the rows that the filter holds for, in the cells of this index.
            also: further rows, int64[a].
        """
        limit = min(limit, self._index.ntotal)
        if limit == 0:
            return np.empty(0, np.int64)
        bits = allowed.bits.copy()
        np.bitwise_or.at(bits, also >> 3, (1 << (also & 7)).astype(np.uint8))
        np.bitwise_and.at(bits, excluded >> 3, ~(1 << (excluded & 7)).astype(np.uint8))
        bitmap: Any = faiss.IDSelectorBitmap
        kind: Any = faiss.SearchParametersIVF
        selector = bitmap(bits)
        nearness = self._centres @ vector
        cells = self._worth_probing(nearness, allowed.cell_counts)
        parameters = kind(sel=selector, nprobe=len(cells))
        rows = self._in_cells(vector, limit, cells, nearness.take(cells), parameters)
        if rows[-1] < 0:  # those cells have too few
            parameters = kind(sel=selector, nprobe=self._cells)
            rows = self._index.search(vector[None], limit, params=parameters)[1][0]
        return rows[rows >= 0]

    def _worth_probing(self, nearness: Float32Array, passing: Int64Array) -> Int64Array:
        """Return the nearest cells that have allowed rows: as many as make up the effort.

        Args:
            nearness: inner product of each cell's centre with the vector, float32[cells].
            passing: number of allowed rows in each cell, int64[cells].
        """
        distance = np.where(passing, -nearness, np.inf)
        for most in sorted({min(_SORTED_CELLS, self._cells), self._cells}):
            # Most filters need few cells, and to sort all takes a fifth of a retrieval.
            cells = np.argpartition(distance, most - 1)[:most]
            cells = cells[np.argsort(distance[cells])]
            compared = np.sqrt(passing[cells].cumsum() * self._cell_sizes[cells].cumsum())
            if compared[-1] >= self._effort:
                break
        return cells[: int(np.searchsorted(compared, self._effort)) + 1]

    def _in_cells(
        self,
        vector: Float32Array,
        limit: int,
        cells: Int64Array,
        nearness: Float32Array,
        parameters: Any,
    ) -> Int64Array:
        """Search given cells; their centres' inner products with the vector are `nearness`."""
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
            parameters,
        )
        return rows

    def prepare_filters(self) -> None:
        """Make the tables of cells that filtered searches read, as the first one would.

        They take 2 bytes a video and a vector for each cell: 3 MB and 40 ms for a million videos of
        64 dimensions.
        """
        if self._cells:
            _ = self._centres, self._cell_sizes

    def cell_counts(self, rows: Int64Array) -> Int64Array:
        """Return how many of some rows each cell has, int64[cells]; empty if there are no cells."""
        if not self._cells:
            return np.empty(0, np.int64)
        return np.bincount(self._cell_of_row.take(rows), minlength=self._cells)

    @property
    def _effort(self) -> float:
        count: int = self._index.ntotal
        return _FILTERED_EFFORT * self._probes * count / self._cells

    @cached_property
    def _centres(self) -> Float32Array:
        """Centre of each cell, float32[cells, d]."""
        centres: Float32Array = self._index.quantizer.reconstruct_n(0, self._cells)
        return centres

    @cached_property
    def _cell_sizes(self) -> Int64Array:
        """Number of videos in each cell, int64[cells]."""
        return np.bincount(self._cell_of_row, minlength=self._cells)

    @cached_property
    def _cell_of_row(self) -> npt.NDArray[Any]:
        """Cell of each row, as the narrowest unsigned integers."""
        cell_of_row = np.zeros(self._index.ntotal, np.min_scalar_type(self._cells))
        lists: Any = self._index.invlists
        for cell in range(self._cells):
            if lists.list_size(cell):
                rows = faiss.rev_swig_ptr(lists.get_ids(cell), lists.list_size(cell))
                cell_of_row[rows] = cell
        return cell_of_row


def _all_but(excluded: Int64Array, total: int) -> tuple[Any, npt.NDArray[np.uint8]]:
    """Return the selector of all rows but some, None to select all, and the memory it refers to.

    One bit per row: with 200 excluded rows as fast as finding that many more and dropping them,
    and with 5,000 a fraction of that time.
    """
    bits = np.empty(0, np.uint8)
    if not len(excluded):
        return None, bits
    bits = np.full((total + 7) // 8, 255, np.uint8)
    np.bitwise_and.at(bits, excluded >> 3, ~(1 << (excluded & 7)).astype(np.uint8))
    selector: Any = faiss.IDSelectorBitmap
    return selector(bits), bits


def _check_ids(file: Path, index: Any, count: int) -> None:
    """Raise ReleaseError if an id that the index stores is no row; most indices store none."""
    if isinstance(index, faiss.IndexIDMap):
        check_rows(file, faiss.vector_to_array(index.id_map), count)
    if isinstance(index, faiss.IndexIVF):
        lists: Any = index.invlists
        for number in range(index.nlist):
            if lists.list_size(number):
                ids = faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))
                check_rows(file, ids, count)
