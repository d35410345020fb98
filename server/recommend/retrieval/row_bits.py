"""Sets of rows of a release, one bit a row, the lowest of a byte first, as faiss reads them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import BoolArray, Int64Array

RowBits = npt.NDArray[np.uint8]
"""uint8[ceil(n / 8)] for n rows; bits beyond them mean nothing, and no row may be negative."""


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
