"""The data that baselines are fitted on: every watch before those they are measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy import sparse

from vireo.server.arrays import Float32Array, Int64Array

Setting = int | float | tuple[float, ...] | None
"""A value of a baseline's configuration."""
Grid = Mapping[str, Sequence[Setting]]
"""Values to try by name of the setting, in order of trial."""


class Baseline(Protocol):
    """A fitted recommender that knows nothing of a viewer but the history."""

    def scores(self, histories: Sequence[Int64Array]) -> Float32Array:
        """Return scores of every video given the rows each viewer watched, float32[v, n].

        Rows are oldest first.
        """
        ...


@dataclass(frozen=True)
class Past:
    """What every viewer of a data set watched before the watches that are measured."""

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
        """Number of viewers who watched each video, int64[n]."""
        return np.bincount(_joined(self.histories), minlength=self.videos)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the histories, hexadecimal."""
        digest = hashlib.sha256(np.int64(self.videos).tobytes())
        digest.update(np.array([len(rows) for rows in self.histories], np.int64).tobytes())
        digest.update(_joined(self.histories).tobytes())
        return digest.hexdigest()


def history_matrix(
    histories: Sequence[Int64Array], videos: int, half_life: float | None = None
) -> sparse.csr_array:
    """Return histories as sparse rows, float32[v, n].

    Args:
        histories: distinct rows that each viewer watched, oldest first.
        videos: size of the catalogue.
        half_life: number of later watches that halve a watch's weight, which is 1 for the last
            watch; None: every watch weighs 1.
    """
    lengths = [len(rows) for rows in histories]
    columns = _joined(histories)
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    if half_life is None:
        weights = np.ones(len(columns), np.float32)
    else:
        steps = _joined([np.arange(length - 1, -1, -1) for length in lengths])
        weights = np.float32(0.5) ** (steps / half_life).astype(np.float32)
    matrix: sparse.csr_array = sparse.csr_array(  # type: ignore[no-untyped-call]
        (weights, columns, pointers), shape=(len(histories), videos)
    )
    return matrix


def _joined(parts: Sequence[Int64Array]) -> Int64Array:
    return np.concatenate([np.empty(0, np.int64), *parts])
