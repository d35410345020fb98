"""Candidates as columns: the value that every stage of a pipeline reads or returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vireo.server.arrays import Float32Array, Int64Array

UInt32Array = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Candidates:
    """n candidates; element i of each column is the same candidate."""

    keys: Int64Array
    """Video keys, int64[n]."""
    rows: Int64Array
    """Rows in the release's tables, int64[n]; -1 if the release doesn't know the key."""
    source_masks: UInt32Array
    """Bit s is set if source s proposed the candidate, uint32[n]."""
    scores: Mapping[str, Float32Array] = field(default_factory=dict)
    """Columns that scorers added, by name, float32[n] each."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: Int64Array) -> Candidates:
        """Return the candidates at the given places, in that order."""
        return Candidates(
            self.keys.take(places),
            self.rows.take(places),
            self.source_masks.take(places),
            {name: column.take(places) for name, column in self.scores.items()},
        )

    def with_scores(self, scores: Mapping[str, Float32Array]) -> Candidates:
        """Return these candidates with further columns."""
        return Candidates(self.keys, self.rows, self.source_masks, {**self.scores, **scores})

    @staticmethod
    def concatenate(parts: Sequence[Candidates]) -> Candidates:
        """Return the candidates of all parts in order; all have the same columns."""
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


def best(rows: Int64Array, scores: Float32Array, keys: Int64Array, limit: int) -> Int64Array:
    """Return the `limit` of `rows` with the largest scores, best first, ties by key.

    Args:
        rows: places in `keys`, int64[m].
        scores: score of each of `rows`, float32[m].
        keys: keys that break ties, int64[n].
        limit: maximum number to return.
    """
    if len(rows) > limit:
        # Sorting all takes several times as long as finding the lowest score that counts.
        reached = (scores >= np.partition(scores, -limit)[-limit]).nonzero()[0]
        rows, scores = rows.take(reached), scores.take(reached)
    order = np.argsort(-scores)
    ordered = scores[order]
    if (ordered[1:] == ordered[:-1]).any():  # sorting by both takes longer
        order = np.lexsort((keys[rows], -scores))
    return rows[order[:limit]]
