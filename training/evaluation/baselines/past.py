"""What the baselines are fitted on: every watch before the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


class Baseline(Protocol):
    """A fitted way to recommend that knows nothing of a viewer but the history."""

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """Scores of every video for viewers who watched these rows, oldest first, float32[v, n]."""
        ...


@dataclass(frozen=True)
class Past:
    """What each viewer of a data set (not of the test alone) watched before the test."""

    histories: Sequence[Int64Array]
    """Rows that each viewer watched, oldest first."""
    videos: int
    """Size of the catalogue."""

    @cached_property
    def matrix(self) -> sparse.csr_array:
        """1 where a viewer watched a video, float32[v, n], sparse."""
        return history_matrix(self.histories, self.videos)

    @cached_property
    def counts(self) -> Int64Array:
        """How many viewers watched each video, int64[n]."""
        rows = np.concatenate([np.empty(0, np.int64), *self.histories])
        return np.bincount(rows, minlength=self.videos)


def history_matrix(
    histories: Sequence[Int64Array], videos: int, half_life: float | None = None
) -> sparse.csr_array:
    """Histories as sparse rows, float32[v, n].

    Args:
        histories: rows that each viewer watched, oldest first, none of them twice.
        videos: size of the catalogue.
        half_life: the last watch weighs 1, one this many steps before it half of that; every
            watch weighs 1 if None.
    """
    lengths = [len(rows) for rows in histories]
    columns = np.concatenate([np.empty(0, np.int64), *histories])
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    if half_life is None:
        weights = np.ones(len(columns), np.float32)
    else:
        back = [np.arange(length - 1, -1, -1) for length in lengths]
        steps = np.concatenate([np.empty(0, np.int64), *back])
        weights = np.float32(0.5) ** (steps / half_life).astype(np.float32)
    matrix: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (weights, columns, pointers), shape=(len(histories), videos)
    )
    return matrix
