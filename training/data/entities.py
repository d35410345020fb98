"""Readers of a user's videos and viewers: files with one row per id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.arrays import Int64Array
from vireo.server.errors import VireoError
from vireo.server.features.model_inputs import ATTRIBUTE_LIMIT
from vireo.training.data.attributes import AttributeColumn, attribute_column, attribute_fields
from vireo.training.data.columns import (
    ATTRIBUTE_BYTES,
    ID_BYTES,
    Checked,
    Column,
    IdColumn,
    labels,
    longer,
    numbers,
    read_columns,
    tags,
    texts,
)
from vireo.training.data.files import read_parts
from vireo.training.data.problems import Problems
from vireo.training.data.schema import VIDEOS, VIEWERS
from vireo.training.data.times import published_times


@dataclass(frozen=True)
class Videos:
    """The contents of a videos file."""

    good: pa.Table
    """Schema VIDEOS, with the declared attributes."""
    ids: pa.Array
    """The id of every row that has one, bad rows included."""


def read_videos(
    path: Path,
    problems: Problems,
    notes: Counter[str],
    now: datetime,
    attributes: Sequence[AttributeColumn] = (),
) -> Videos:
    """Read a videos file, CSV or Parquet.

    Args:
        path: the file.
        problems: collects bad rows.
        notes: counts what is repaired or dropped.
        now: the current time.
        attributes: the declared attributes.

    Raises:
        VireoError: the file can't be read, or a column is missing or unusable.
    """
    ids = IdColumn()
    columns = {
        "video_id": Column(ids.read, required=True),
        "title": Column(texts, required=True),
        "tags": Column(tags),
        "published": Column(partial(published_times, now=now)),
        "duration": Column(partial(numbers, low=0)),
        "creator": Column(partial(texts, max_bytes=ID_BYTES)),
        **{
            attribute_column(each.name): Column(partial(_values, attribute=each), each.column)
            for each in attributes
        },
    }
    fields = attribute_fields({each.name: each.kind for each in attributes})
    rows = _Rows("video_id", pa.schema([*VIDEOS, *fields]))
    every: list[Any] = []
    for checked, values in read_columns(path, columns, problems, notes, "videos"):
        every += values["video_id"].chunks
        notes["videos without a title, named by their id"] += values["title"].null_count
        rows.add(checked, values | {"title": pc.coalesce(values["title"], values["video_id"])})
    ids.close()
    good = rows.distinct(path.name, problems, notes)
    return Videos(good, pa.chunked_array(every, pa.string()))


def _values(checked: Checked, column: str, attribute: AttributeColumn) -> Any:
    """Return a declared attribute of each video; raise VireoError if its column is missing."""
    if column not in checked.file.columns:
        raise VireoError(
            f"{checked.file.name} has no column {column} for the attribute {attribute.name}; it "
            f"has {', '.join(checked.file.columns)}: declare it as {attribute.name}=COLUMN"
        )
    if attribute.kind == "labels":
        return labels(checked, column)
    return numbers(checked, column, kind=np.float64)


def read_viewers(path: Path | None, problems: Problems, notes: Counter[str]) -> pa.Table:
    """Read the good rows of a viewers file, schema VIEWERS; an empty table without a file.

    Arguments and errors are as for `read_videos`.
    """
    if path is None:
        return VIEWERS.empty_table()
    ids, rows = IdColumn(), _Rows("viewer_id", VIEWERS)
    for file in read_parts(path, problems):
        file.require("viewer_id")
        names = [name for name in file.columns if name != "viewer_id"]
        if len(names) > ATTRIBUTE_LIMIT:
            raise VireoError(
                f"{file.name} has {len(names)} attributes and at most {ATTRIBUTE_LIMIT} are read; "
                "remove the columns that predict least what someone watches"
            )
        checked = Checked.of(file, problems)
        columns = [_attribute(checked, name).to_pylist() for name in names]
        attributes = [
            [value for value in values if value is not None]
            for values in (zip(*columns, strict=True) if columns else [()] * len(file.rows))
        ]
        rows.add(checked, {"viewer_id": ids.read(checked, "viewer_id"), "attributes": attributes})
    ids.close()
    return rows.distinct(path.name, problems, notes)


def _attribute(checked: Checked, name: str) -> Any:
    """Return a column of attributes as "name=value", null if there is none."""
    values = pc.binary_join_element_wise(pa.scalar(name), texts(checked, name), "=")
    what = f"{name}=value is over {ATTRIBUTE_BYTES} bytes long"
    checked.mark(name, longer(values, ATTRIBUTE_BYTES), what, "shorten the value")
    return values


class _Rows:
    """Collects the good rows of a file part by part, and counts the bad ones."""

    def __init__(self, key: str, schema: pa.Schema) -> None:
        self._key = key
        self._schema = schema
        self._parts: list[pa.Table] = []
        self._numbers: list[Int64Array] = []
        self._bad = 0

    def add(self, checked: Checked, columns: dict[str, Any]) -> None:
        """Add the good rows of a part."""
        good = ~checked.bad
        self._parts.append(pa.table(columns, schema=self._schema).filter(pa.array(good)))
        self._numbers.append(checked.file.rows[good])
        self._bad += int(checked.bad.sum()) + checked.file.uneven

    def distinct(self, file: str, problems: Problems, notes: Counter[str]) -> pa.Table:
        """Return each id once: duplicate rows are dropped, conflicting rows are bad."""
        table, rows = pa.concat_tables(self._parts), np.concatenate(self._numbers)
        kind = self._key.removesuffix("_id") + "s"
        ids = table[self._key].to_pandas()
        shared = np.flatnonzero(ids.duplicated(keep=False))
        contents = pd.DataFrame({"id": ids.iloc[shared], "row": _hashes(table.take(shared))})
        again, differs = np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.bool_)
        again[shared] = contents.duplicated()
        differs[shared] = contents["id"].duplicated()
        differs &= ~again
        problems.add(
            file,
            self._key,
            rows,
            differs,
            lambda position: f"{ids[position]!r} was described before, otherwise",
            f"keep one row for each of the {kind}",
        )
        notes[f"{kind} given twice, dropped"] = int(again.sum())
        notes[f"bad {kind} left out"] = self._bad + int(differs.sum())
        return table.filter(pa.array(~(differs | again)))


def _hashes(table: pa.Table) -> Int64Array:
    """Return a hash for each row, int64[n]; equal rows have equal hashes."""
    rows = (row for batch in table.to_batches(10_000) for row in batch.to_pylist())
    return np.fromiter((hash(str(row)) for row in rows), np.int64, table.num_rows)
