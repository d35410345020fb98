"""Candidates as columns: the value that every stage of a pipeline takes or gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Candidates:
    """n candidates; element i of each column is the same candidate.

    Raises:
        ValueError: the columns differ in length.
    """

    keys: Int64Array
    """Video keys, int64[n]."""
    rows: Int64Array
    """Rows in the release's tables, int64[n]; -1 where the release doesn't know the key."""
    source_masks: UInt32Array
    """Bit s is set where Source s proposed the candidate, uint32[n]."""
    scores: Mapping[str, Float32Array] = field(default_factory=dict)
    """Columns that scorers added, by name, float32[n] each."""

    def __post_init__(self) -> None:
        count = len(self.keys)
        if len(self.rows) != count or len(self.source_masks) != count:
            self._refuse()
        for column in self.scores.values():
            if len(column) != count:
                self._refuse()

    def _refuse(self) -> NoReturn:
        lengths = {"rows": len(self.rows), "source_masks": len(self.source_masks)}
        lengths |= {name: len(column) for name, column in self.scores.items()}
        name = next(name for name, length in lengths.items() if length != len(self.keys))
        raise ValueError(
            f"column {name} has {lengths[name]} values for {len(self.keys)} candidates"
        )

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, chosen: npt.NDArray[np.bool_] | Int64Array) -> Candidates:
        """The candidates of a boolean mask, or those at the given places, in that order."""
        return Candidates(
            self.keys[chosen],
            self.rows[chosen],
            self.source_masks[chosen],
            {name: column[chosen] for name, column in self.scores.items()},
        )

    def with_scores(self, scores: Mapping[str, Float32Array]) -> Candidates:
        """These candidates with further columns."""
        return replace(self, scores={**self.scores, **scores})

    @staticmethod
    def concatenate(parts: Sequence[Candidates]) -> Candidates:
        """The candidates of all parts, one after another; all have the same columns."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return Candidates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint32))
        return Candidates(
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.source_masks for part in parts]),
            {
                name: np.concatenate([part.scores[name] for part in parts])
                for name in parts[0].scores
            },
        )
