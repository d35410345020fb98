"""The best of some rows, in an order that is the same everywhere."""

from __future__ import annotations

import numpy as np

from vireo.server.arrays import Float32Array, Int64Array


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
