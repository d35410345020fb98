"""Sums of the weights of an item-to-item table over the videos that a viewer watched."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import Float32Array, Int32Array, Int64Array

DENSE_LIMIT = 50_000
"""Up to this many videos, a dense sum takes less time than sorting the rows."""
DENSE_SHARE = 1 / 16
"""Beyond, it does if the weights number at least this share of the videos."""


def summed(
    rows: Int32Array, weights: npt.NDArray[np.floating], videos: int
) -> tuple[Int64Array, Float32Array]:
    """Return the videos that have weights, each once, and the sums of their weights.

    Args:
        rows: row of the video of each weight, any shape; -1 for padding.
        weights: of the same shape; 0 for padding.
        videos: size of the catalogue.

    Returns:
        Rows, ascending, int64[m], and sums, float32[m].
    """
    rows, parts = rows.ravel(), weights.ravel().astype(np.float64, copy=False)
    if videos <= DENSE_LIMIT or len(rows) >= DENSE_SHARE * videos:
        # One place more: padding counts as the last.
        every = np.zeros(videos + 1)
        # A quarter less time than np.bincount, which looks for the largest row first.
        np.add.at(every, rows.astype(np.int64), parts)
        found = every[:-1].nonzero()[0]
        return found, every[found].astype(np.float32)
    real = (rows >= 0) & (parts != 0)
    found, place = np.unique(rows[real], return_inverse=True)
    sums = np.bincount(place, parts[real], minlength=len(found))
    return found.astype(np.int64), sums.astype(np.float32)
