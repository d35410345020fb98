"""Videos nearest to the viewer tower's embedding; its score puts all sources on one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vireo.server.arrays import Float32Array, Int32Array, Int64Array
from vireo.server.features.looked_up import looked_up
from vireo.server.recommend.candidates import best
from vireo.server.recommend.retrieval.query import Retrieval

if TYPE_CHECKING:
    from vireo.server.recommend.retrieval.allowed import AppliedFilter

MAX_LOOKED_UP = 3_000
"""Maximum videos of a filtered search whose vectors are looked up one by one: to scan their cells,
where vectors lie beside each other, takes longer if few of a cell are allowed, and less if most
are."""
_LOOKED_UP_PER_RESULT = 6
"""A search for many results looks that many up for each."""


def propose(query: Retrieval, limit: int) -> Int64Array:
    """Return the nearest videos."""
    release, applied = query.release, query.applied
    if release.index.exact:
        # The products of all videos, which scores need anyway, take a tenth of the index's search.
        free = query.free_rows
        return best(free, query.once(_every_score)[free], release.keys, limit)
    if applied is None:
        allowed = query.free if len(query.blocked) else None
        return release.index.nearest(query.vector, limit, allowed)
    return _nearest_allowed(query, applied, limit)


def _nearest_allowed(query: Retrieval, applied: AppliedFilter, limit: int) -> Int64Array:
    """Return the nearest videos of those that a filter holds for, by an index with cells."""
    release, allowed, also = query.release, applied.allowed, applied.allowed_rows

    def compared(listed: Int32Array) -> Int64Array:
        rows = np.concatenate([listed, also])
        return query.best(rows, looked_up(release.vectors, rows) @ query.vector, limit)

    most = max(MAX_LOOKED_UP, _LOOKED_UP_PER_RESULT * limit)
    if allowed.listed is not None and allowed.passing <= most:
        return compared(allowed.listed)
    cells = release.index.cells_worth_probing(query.vector, limit, allowed.cell_counts)
    if allowed.listed is not None and allowed.cell_counts[cells].sum() <= most:
        found = compared(allowed.rows_in(cells))
        if len(found) == limit:
            return found
    return release.index.nearest_in(cells, query.vector, limit, query.free)


def score(query: Retrieval, rows: Int64Array) -> Float32Array:
    """Return the exact inner products, even if the index compresses vectors."""
    if query.release.index.exact:
        return query.once(_every_score)[rows]
    return looked_up(query.release.vectors, rows) @ query.vector


def _every_score(query: Retrieval) -> Float32Array:
    """Return the inner product of every video, float32[n]."""
    scores: Float32Array = query.release.vectors @ query.vector
    return scores
