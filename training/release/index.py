"""The index of video vectors: exact while that is fast, else approximate by measured recall."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

EXACT_LIMIT = 50_000
"""Up to so many videos exact search takes under half a millisecond."""
RECALL_WANTED = 0.95
"""Share of the exact nearest NEIGHBOURS that an approximate index must find."""
NEIGHBOURS = 500
_QUERIES = 200
_TRAINING_ROWS_PER_CELL = 64

Float32Array = npt.NDArray[np.float32]


def build_index(vectors: Float32Array, exact_limit: int = EXACT_LIMIT) -> Any:
    """A faiss inner-product index of float32[n, d]; its ids are rows."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    if len(vectors) <= exact_limit:
        index.add(vectors)
        return index
    cells = int(2 ** np.round(np.log2(4 * np.sqrt(len(vectors)))))
    approximate = faiss.IndexIVFScalarQuantizer(
        index,
        vectors.shape[1],
        cells,
        faiss.ScalarQuantizer.QT_fp16,
        faiss.METRIC_INNER_PRODUCT,
    )
    random = np.random.default_rng(0)
    sample = random.permutation(len(vectors))[: cells * _TRAINING_ROWS_PER_CELL]
    approximate.train(vectors[sample])
    approximate.add(vectors)
    approximate.nprobe = _enough_probes(approximate, vectors, random)
    return approximate


def _enough_probes(index: Any, vectors: Float32Array, random: np.random.Generator) -> int:
    """The fewest cells (a power of two) to search for RECALL_WANTED; saved with the index."""
    # Viewer vectors lie among the videos that they like: noisy sums of a few of these.
    picks = random.integers(len(vectors), size=(_QUERIES, 3))
    queries = vectors[picks].mean(1)
    exact = faiss.IndexFlatIP(vectors.shape[1])
    exact.add(vectors)
    _, wanted = exact.search(queries, NEIGHBOURS)
    probes = 1
    while probes < index.nlist:
        index.nprobe = probes
        _, found = index.search(queries, NEIGHBOURS)
        hits = [len(np.intersect1d(*pair)) for pair in zip(wanted, found, strict=True)]
        if np.mean(hits) >= RECALL_WANTED * NEIGHBOURS:
            break
        probes = min(2 * probes, index.nlist)
    return probes
