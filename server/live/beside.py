"""A column of a release's table and of a side table's as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from server.arrays import Int64Array
from server.features.looked_up import Column, widened


@dataclass(frozen=True)
class Beside:
    """Row n + r is row r of `side`, for n rows of `own`; until the side table's next change."""

    own: Column
    """An array, [n, d] or [n]."""
    side: npt.NDArray[Any]
    """[m, d] or [m]; in float32 if `own` is in float16."""
    count: int
    """n."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the release's column."""
        return self.own.shape

    def take(self, rows: Int64Array, axis: int) -> npt.NDArray[Any]:
        """Return the values at `rows`."""
        beyond = (rows >= self.count).nonzero()[0]
        if not len(beyond):
            return self.own.take(rows, axis=axis)
        mine = rows.copy()
        mine[beyond] = 0
        found = widened(self.own.take(mine, axis=axis))
        found[beyond] = self.side.take(rows.take(beyond) - self.count, axis=axis)
        return found
