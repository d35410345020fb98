"""Indices of vectors that have cells, as large catalogues' have."""

from __future__ import annotations

from typing import Any

import faiss

from server.arrays import Float32Array


def index_in_cells(vectors: Float32Array, cells: int) -> Any:
    """Return an index of vectors, float32[n, d], with so many cells."""
    size = vectors.shape[1]
    made = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, cells, faiss.METRIC_INNER_PRODUCT)
    made.train(vectors)
    made.add(vectors)
    return made
