"""The index of video vectors: exact for small catalogues, else approximate with measured recall."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.releases.manifest import IndexDescription

EXACT_LIMIT = 50_000
"""Maximum catalogue for exact search, which takes under half a millisecond up to this size."""
RECALL_WANTED = 0.95
"""Recall of the exact nearest NEIGHBOURS that an approximate index must reach."""
NEIGHBOURS = 500
_TRAINING_ROWS_PER_CELL = 40


def build_index(
    vectors: Float32Array,
    queries: Float32Array,
    *,
    exact_limit: int = EXACT_LIMIT,
    recall_wanted: float = RECALL_WANTED,
) -> tuple[Any, IndexDescription]:
    """Return a faiss inner-product index whose ids are rows, and its description.

    Args:
        vectors: video vectors, float32[n, d].
        queries: viewer vectors to measure recall with, float32[q, d].
        exact_limit: maximum catalogue for exact search.
        recall_wanted: recall of the nearest NEIGHBOURS that sets the number of probes.
    """
    count, size = vectors.shape
    if count <= exact_limit:
        exact = faiss.IndexFlatIP(size)
        exact.add(vectors)
        return exact, IndexDescription()
    cells = int(2 ** np.round(np.log2(4 * np.sqrt(count))))
    random = np.random.default_rng(0)
    if not len(queries):
        # Viewer vectors lie among those of the videos that they like.
        queries = vectors[random.integers(count, size=(200, 3))].mean(1)
    sample = random.permutation(count)[: cells * _TRAINING_ROWS_PER_CELL]
    approximate = _in_cells(vectors, sample, cells)
    neighbours = min(NEIGHBOURS, count)
    wanted = faiss.knn(queries, vectors, neighbours, faiss.METRIC_INNER_PRODUCT)[1]

    kind: Any = faiss.SearchParametersIVF

    def recall(probes: int) -> float:
        parameters = kind(nprobe=probes)
        found = approximate.search(queries, neighbours, params=parameters)[1]
        hits = [len(np.intersect1d(*pair)) for pair in zip(wanted, found, strict=True)]
        return float(np.mean(hits) / neighbours)

    probes = min_probes(recall, recall_wanted, cells)
    approximate.nprobe = probes
    return approximate, IndexDescription(
        kind="ivf_int8",
        cells=cells,
        probes=probes,
        neighbours=neighbours,
        queries=len(queries),
        recall_wanted=recall_wanted,
        recall=recall(probes),
    )


def _in_cells(vectors: Float32Array, sample: Int64Array, cells: int) -> Any:
    """Return an IVF index with 8 bits per dimension whose cells reflect length and direction.

    The largest inner products are with long vectors. faiss's own inner-product cells ignore
    lengths: among a million videos ten times as many had to be searched for the same recall. Here
    k-means and each video's cell go by L2 distance; a query probes the cells whose centres have
    the largest inner products.

    Args:
        vectors: float32[n, d].
        sample: rows to train the centres on, int64[s].
        cells: number of cells.
    """
    size = vectors.shape[1]
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(size),
        size,
        cells,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.cp.spherical = False  # The inner-product default normalizes the centres.
    index.cp.min_points_per_centroid = 1  # Avoids a warning only.
    index.train(vectors[sample])
    index.add(vectors)
    centres: Any = faiss.IndexFlatIP(size)
    centres.add(index.quantizer.reconstruct_n(0, cells))
    centres.this.disown()
    index.quantizer, index.own_fields = centres, True
    return index


def min_probes(recall: Callable[[int], float], wanted: float, limit: int) -> int:
    """Return the minimum probes with recall >= `wanted`, within 1/16; `limit` if none reach it."""
    high = 1
    while high < limit and recall(high) < wanted:
        high = min(2 * high, limit)
    low = high // 2
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if recall(middle) < wanted else (low, middle)
    return high
