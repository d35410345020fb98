"""The attributes of a release's videos: an inverted index of labels, a table of numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.arrays import Float64Array, Int32Array, Int64Array
from vireo.server.recommend.filters.declared import MAX_VALUE_BYTES, label
from vireo.server.releases import layout
from vireo.server.releases.tables import write_texts
from vireo.training.data.attributes import all_attributes, attribute_column
from vireo.training.data.dataset import Dataset

_MICROS = 1e6


@dataclass(frozen=True)
class _Labels:
    """Labels, sorted by their bytes, and which videos have each."""

    texts: list[str]
    counts: Int64Array
    """Number of videos that have each label, int64[v]."""
    rows: Int32Array
    """Their rows, label after label, ascending, int32[t]."""


def write_attributes(folder: Path, dataset: Dataset, popular: Int64Array) -> None:
    """Write layout.ATTRIBUTE_TABLES and layout.POPULAR_ATTRIBUTES into a release.

    Reads a column of the catalogue at a time; memory holds some 20 bytes for each label of each
    video, and 8 for each number.

    Args:
        folder: the release, which has a folder for the tables of videos.
        dataset: the data set; a column that it lacks is unknown of all videos.
        popular: rows of the videos of layout.POPULAR_IDS, int64[p].
    """
    declared = all_attributes(dataset.attributes)
    # The label's text begins with "name=", so "a1=" comes before "a=".
    names = sorted(declared.labels, key=lambda name: label(name, ""))
    labels = _joined([_labels(name, _column(dataset, name)) for name in names])
    count = dataset.video_columns("video_id").num_rows
    # Column by column, as filters read it.
    numbers = np.full((count, len(declared.numbers)), np.nan, order="F")
    for place, name in enumerate(declared.numbers):
        if (column := _column(dataset, name)) is not None:
            numbers[:, place] = _numbers(column)
    write_texts(folder / layout.LABELS, labels.texts)
    np.save(folder / layout.LABEL_OFFSETS, np.concatenate([[0], np.cumsum(labels.counts)]))
    np.save(folder / layout.LABEL_ROWS, labels.rows)
    np.save(folder / layout.NUMBERS, numbers)
    names_by_kind = {"labels": declared.labels, "numbers": declared.numbers}
    documents = {
        layout.ATTRIBUTES: names_by_kind,
        layout.POPULAR_ATTRIBUTES: _of_rows(popular, labels, numbers, declared.numbers),
    }
    for path, document in documents.items():
        (folder / path).write_text(json.dumps(document, ensure_ascii=False))


def _column(dataset: Dataset, name: str) -> pa.ChunkedArray | None:
    """Return the catalogue's column of an attribute; None if the data set lacks it."""
    table = dataset.video_columns(attribute_column(name))
    return table.column(0) if table.num_columns else None


def _labels(name: str, column: pa.ChunkedArray | None) -> _Labels:
    """Return the labels of one attribute."""
    if column is None:
        return _Labels([], np.zeros(0, np.int64), np.zeros(0, np.int32))
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
    return _Labels(texts.to_pylist(), counts, rows[once])


def _joined(parts: list[_Labels]) -> _Labels:
    return _Labels(
        [text for part in parts for text in part.texts],
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.rows for part in parts]),
    )


def _numbers(column: pa.ChunkedArray) -> Float64Array:
    """Return a column of numbers, durations or times as float64[n], NaN if unknown."""
    if pa.types.is_timestamp(column.type):
        seconds = column.cast(pa.int64()).fill_null(0).to_numpy() / _MICROS
        return np.where(column.is_null().to_numpy(), np.nan, seconds)
    if pa.types.is_float32(column.type):
        # As it was written: 9.1, not the nearest number to it in single precision.
        column = column.cast(pa.string())
    return np.asarray(column.cast(pa.float64()).fill_null(np.nan).to_numpy(), np.float64)


def _of_rows(
    rows: Int64Array, labels: _Labels, numbers: Float64Array, names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return the labels and the known numbers of some videos."""
    place = np.full(len(numbers), -1)
    place[rows] = np.arange(len(rows))
    found: list[dict[str, Any]] = [
        {
            "labels": [],
            "numbers": {
                name: number
                for name, number in zip(names, known, strict=True)
                if number == number  # not NaN
            },
        }
        for known in numbers[rows].tolist()
    ]
    asked = np.flatnonzero(place[labels.rows] >= 0)
    which = np.searchsorted(np.cumsum(labels.counts), asked, side="right")
    for at, text in zip(place[labels.rows[asked]].tolist(), which.tolist(), strict=True):
        found[at]["labels"].append(labels.texts[text])
    return found
