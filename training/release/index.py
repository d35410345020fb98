"""The index of video vectors: exact while that is fast, else approximate by measured recall."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from server.releases.manifest import IndexDescription

EXACT_LIMIT = 50_000
"""Up to so many videos exact search takes under half a millisecond."""
RECALL_WANTED = 0.95
"""Share of the exact nearest NEIGHBOURS that an approximate index must find."""
NEIGHBOURS = 500
_TRAINING_ROWS_PER_CELL = 40

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


def build_index(
    vectors: Float32Array,
    queries: Float32Array,
    *,
    exact_limit: int = EXACT_LIMIT,
    recall_wanted: float = RECALL_WANTED,
) -> tuple[Any, IndexDescription]:
    """A faiss inner-product index whose ids are rows, and how to search it.

    Args:
        vectors: of the videos, float32[n, d].
        queries: vectors of viewers, which recall is measured with, float32[q, d].
        exact_limit: larger catalogues are searched approximately.
        recall_wanted: of the nearest NEIGHBOURS; so many cells are searched as it takes.
    """
    count, size = vectors.shape
    if count <= exact_limit:
        exact = faiss.IndexFlatIP(size)
        exact.add(vectors)
        return exact, IndexDescription()
    cells = int(2 ** np.round(np.log2(4 * np.sqrt(count))))
    random = np.random.default_rng(0)
    if not len(queries):
        # Viewers' vectors lie among the videos that they like.
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

    probes = fewest(recall, recall_wanted, cells)
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
    """The vectors in 8 bits a dimension, in cells by where they are, not by direction alone.

    The largest inner products are with long vectors. faiss's own cells for inner products tell
    directions apart, not lengths: ten times as many had to be searched among a million videos
    for the same recall. Here k-means is by distance, and so is each video's cell; a viewer's
    cells are those whose centres have the largest inner products.

    Args:
        vectors: float32[n, d].
        sample: rows that the centres are found from, int64[s].
        cells: how many.
    """
    size = vectors.shape[1]
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatL2(size),
        size,
        cells,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.cp.spherical = False  # As for inner products: all centres of length 1.
    index.cp.min_points_per_centroid = 1  # It would only warn.
    index.train(vectors[sample])
    index.add(vectors)
    centres: Any = faiss.IndexFlatIP(size)
    centres.add(index.quantizer.reconstruct_n(0, cells))
    centres.this.disown()
    index.quantizer, index.own_fields = centres, True
    return index


def fewest(recall: Callable[[int], float], wanted: float, most: int) -> int:
    """The fewest probes with a recall of `wanted`, within a sixteenth; `most` where none has."""
    high = 1
    while high < most and recall(high) < wanted:
        high = min(2 * high, most)
    low = high // 2
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if recall(middle) < wanted else (low, middle)
    return high
