"""The index of a release's video vectors, and the attributes of its videos.

The index is exact for small catalogues, else approximate with measured recall. Attributes are an
inverted index of labels and a table of numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from vireo.server.recommend.filters.declared import MAX_VALUE_BYTES, label
from vireo.server.recommend.filters.table import AttributeTable
from vireo.server.releases import layout
from vireo.server.releases.manifest import IndexDescription
from vireo.server.releases.tables import write_texts
from vireo.training.data.dataset import Dataset
from vireo.training.data.schema import all_attributes, attribute_column

EXACT_LIMIT = 50_000
"""Maximum catalogue for exact search, which takes under half a millisecond up to this size."""
RECALL_WANTED = 0.95
"""Recall of the exact nearest NEIGHBOURS that an approximate index must reach."""
NEIGHBOURS = 500
_TRAINING_ROWS_PER_CELL = 40
_MICROS = 1e6


def build_index(
    vectors: Float32Array, queries: Float32Array, *, exact_limit: int = EXACT_LIMIT
) -> tuple[Any, IndexDescription]:
    """Return a faiss inner-product index whose ids are rows, and its description.

    Args:
        vectors: video vectors, float32[n, d].
        queries: viewer vectors to measure recall with, float32[q, d].
        exact_limit: maximum catalogue for exact search.
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

    probes = min_probes(recall, RECALL_WANTED, cells)
    approximate.nprobe = probes
    return approximate, IndexDescription(
        kind="ivf_int8",
        cells=cells,
        probes=probes,
        neighbours=neighbours,
        queries=len(queries),
        recall_wanted=RECALL_WANTED,
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


def write_attributes(folder: Path, dataset: Dataset, popular: Int64Array) -> None:
    """Write layout.ATTRIBUTE_TABLES and layout.POPULAR_ATTRIBUTES into a release.

    Reads a column of the catalogue at a time; memory holds some 20 bytes for each label of each
    video, and 8 for each number.

    Args:
        folder: the release, which has a folder for the tables of videos.
        dataset: the data set.
        popular: rows of the videos of layout.POPULAR_IDS, int64[p].
    """
    declared = all_attributes(dataset.info.attributes)
    # The label's text begins with "name=", so "a1=" comes before "a=".
    names = sorted(declared.labels, key=lambda name: label(name, ""))
    texts, counts, rows = zip(
        *(_labels(name, _column(dataset, name)) for name in names), strict=True
    )
    count = dataset.video_columns("video_id").num_rows
    # Column by column, as filters read it.
    numbers = np.full((count, len(declared.numbers)), np.nan, order="F")
    for place, name in enumerate(declared.numbers):
        numbers[:, place] = _numbers(_column(dataset, name))
    write_texts(folder / layout.LABELS, chain.from_iterable(texts))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    np.save(folder / layout.LABEL_OFFSETS, offsets)
    np.save(folder / layout.LABEL_ROWS, np.concatenate(rows))
    np.save(folder / layout.NUMBERS, numbers)
    names_by_kind = {"labels": declared.labels, "numbers": declared.numbers}
    (folder / layout.ATTRIBUTES).write_text(json.dumps(names_by_kind, ensure_ascii=False))
    written = AttributeTable.load(folder, count)
    popular_ones = []
    for row in popular.tolist():
        own, known = written.attributes_of(row)
        known = {name: number for name, number in known.items() if not math.isnan(number)}
        popular_ones.append({"labels": sorted(own), "numbers": known})
    text = json.dumps(popular_ones, ensure_ascii=False)
    (folder / layout.POPULAR_ATTRIBUTES).write_text(text)


def _column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """Return the catalogue's column of an attribute."""
    return dataset.video_columns(attribute_column(name)).column(0)


def _labels(name: str, column: pa.ChunkedArray) -> tuple[list[str], Int64Array, Int32Array]:
    """Return the labels of one attribute, sorted by their bytes, and which videos have each.

    Returns:
        The texts of v labels; the number of videos that have each, int64[v]; and their rows, label
        after label, ascending, int32[t].
    """
    rows: Int32Array = np.arange(len(column), dtype=np.int32)
    if pa.types.is_list(column.type):
        rows = rows.repeat(pc.list_value_length(column).fill_null(0).to_numpy())
        column = pc.list_flatten(column)
    # No filter can ask for longer values.
    sizes = pc.binary_length(column).fill_null(0).to_numpy()
    possible = (sizes > 0) & (sizes <= MAX_VALUE_BYTES)
    encoded = column.filter(pa.array(possible)).dictionary_encode().combine_chunks()
    values = encoded.dictionary
    order = pc.sort_indices(values).to_numpy()  # by bytes
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    places, rows = rank[encoded.indices.to_numpy()], rows[possible]
    by_label = np.argsort(places, kind="stable")
    places, rows = places[by_label], rows[by_label]
    # A video may have a label twice.
    once = (np.diff(places, prepend=-1) != 0) | (np.diff(rows, prepend=-1) != 0)
    texts = pc.binary_join_element_wise(pa.scalar(name), values.take(pa.array(order)), "=")
    counts = np.bincount(places[once], minlength=len(order))
    return texts.to_pylist(), counts, rows[once]


def _numbers(column: pa.ChunkedArray) -> Float64Array:
    """Return a column of numbers, durations or times as float64[n], NaN if unknown."""
    if pa.types.is_timestamp(column.type):
        seconds = column.cast(pa.int64()).fill_null(0).to_numpy() / _MICROS
        return np.where(column.is_null().to_numpy(), np.nan, seconds)
    if pa.types.is_float32(column.type):
        # As it was written: 9.1, not the nearest number to it in single precision.
        column = column.cast(pa.string())
    return np.asarray(column.cast(pa.float64()).fill_null(np.nan).to_numpy(), np.float64)
