"""Indices of vectors that have cells, as large catalogues' have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import faiss

from vireo.server.arrays import Float32Array
from vireo.server.recommend.filters.table import AttributeTable
from vireo.server.recommend.retrieval.allowed import Filters
from vireo.server.recommend.retrieval.index import VideoIndex
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import IndexDescription


def index_in_cells(vectors: Float32Array, cells: int) -> Any:
    """Return an index of vectors, float32[n, d], with so many cells."""
    size = vectors.shape[1]
    made = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, cells, faiss.METRIC_INNER_PRODUCT)
    made.train(vectors)
    made.add(vectors)
    return made


def release_in_cells(release: CandidateRelease, cells: int, probes: int) -> CandidateRelease:
    """Return a release whose index has cells, of which a search probes a few."""
    made = index_in_cells(release.vectors, cells)
    index = VideoIndex(made, IndexDescription(kind="ivf_int8", cells=cells, probes=probes))
    table = AttributeTable.load(release.folder, len(release.keys))
    assert table is not None
    filters = Filters(table, index, 1 << 20)
    return replace(release, index=index, filters=filters)
