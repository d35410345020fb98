"""Columns of a user's files as ids, numbers, text and tags; bad values are problems."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.arrays import BoolArray, Float64Array
from vireo.server.errors import VireoError
from vireo.server.recommend.filters.declared import MAX_VALUE_BYTES
from vireo.training.data.files import FilePart, is_text, present, read_parts
from vireo.training.data.problems import Problems
from vireo.training.data.schema import MAX_VALUES

ID_BYTES = 128
"""Maximum length of an id in UTF-8."""
ATTRIBUTE_BYTES = 256
"""Maximum length of an attribute, "name=value", in UTF-8."""
_NUMBER = r"^\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*$"
_DECIMAL_ID = r"^-?\d+\.0+$"


@dataclass
class Checked:
    """A part of a file while its columns are read, and which of its rows are bad."""

    file: FilePart
    problems: Problems
    bad: BoolArray

    @staticmethod
    def of(file: FilePart, problems: Problems) -> Checked:
        """Return a part without bad rows."""
        return Checked(file, problems, np.zeros(len(file.rows), np.bool_))

    def mark(self, column: str, bad: BoolArray, what: str, remedy: str) -> None:
        """Record bad rows; {} in `what` stands for the row's value."""

        def described(position: int) -> str:
            # A missing time can't be shown.
            return what.replace("{}", self.shown(column, position)) if "{}" in what else what

        self.problems.add(self.file.name, column, self.file.rows, bad, described, remedy)
        self.bad |= bad

    def shown(self, column: str, position: int) -> str:
        """Return a value of the file, truncated for a message."""
        scalar = self.file.columns[column][position]
        if pa.types.is_temporal(scalar.type):  # datetime can't hold all of them
            text = scalar.cast(pa.string()).as_py()
        else:
            text = repr(scalar.as_py())
        return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Column:
    """A column that is made of a column of a user's file."""

    read: Callable[[Checked, str], Any]
    """Converts a part's column of this name to an array or lists, and marks rows that can't be."""
    source: str = ""
    """Column of the file; the same name if empty."""
    required: bool = False


def read_columns(
    path: Path, columns: Mapping[str, Column], problems: Problems, notes: Counter[str], kind: str
) -> Iterator[tuple[Checked, dict[str, Any]]]:
    """Yield each part of a file with its columns by name, and its bad rows marked.

    Args:
        path: the file.
        columns: the columns to make, by name.
        problems: collects bad rows.
        notes: counts the columns of the file that aren't read.
        kind: what the file holds, in words.

    Raises:
        VireoError: the file can't be read, or a column is missing or unusable.
    """
    sources = {name: column.source or name for name, column in columns.items()}
    for file in read_parts(path, problems):
        file.require(*(sources[name] for name, column in columns.items() if column.required))
        ignored = [name for name in file.columns if name not in sources.values()]
        if ignored:
            notes[f"columns of {kind} ignored: {', '.join(ignored)}"] = len(ignored)
        checked = Checked.of(file, problems)
        yield checked, {name: each.read(checked, sources[name]) for name, each in columns.items()}


class IdColumn:
    """Reads a column of ids as text, part by part: 007 stays 007, the integer 7 becomes "7"."""

    def __init__(self) -> None:
        self._decimals: VireoError | None = None
        self._others = False

    def read(self, checked: Checked, column: str) -> Any:
        """Return a part's ids, empty if missing; raise VireoError if not text or integers."""
        values = checked.file.columns[column]
        kind = values.type
        if pa.types.is_floating(kind):
            raise _decimal_ids(checked, column, 0)
        if not (pa.types.is_integer(kind) or is_text(kind)):
            raise VireoError(
                f"{checked.file.name}, column {column}: ids are of type {kind}; "
                "write them as text or integers"
            )
        there = present(values)
        text = values.cast(pa.string())
        decimal = pc.match_substring_regex(text, _DECIMAL_ID).fill_null(False).to_numpy()
        self._others = self._others or bool((there & ~decimal).any())
        if self._decimals is None and not self._others and there.any():
            self._decimals = _decimal_ids(checked, column, int(np.argmax(there)))
        checked.mark(column, ~there, "the id is missing", "give every row its id")
        too_long = f"the id {{}} is over {ID_BYTES} bytes long"
        remedy = f"use ids of 1 to {ID_BYTES} bytes of UTF-8"
        checked.mark(column, longer(text, ID_BYTES), too_long, remedy)
        return text.fill_null("")

    def close(self) -> None:
        """Raise VireoError if every id was a decimal, as integers with missing values become."""
        if self._decimals is not None and not self._others:
            raise self._decimals


def _decimal_ids(checked: Checked, column: str, position: int) -> VireoError:
    rows = checked.file.rows
    place = f", row {rows[position]}" if len(rows) else ""
    example = f" like {checked.shown(column, position)}" if len(rows) else ""
    return VireoError(
        f"{checked.file.name}{place}, column {column}: ids are decimal numbers{example}, which is "
        "what integers with missing values turn into; write them as integers or text"
    )


def numbers(
    checked: Checked,
    column: str,
    low: float = -math.inf,
    high: float = math.inf,
    kind: type[np.floating] = np.float32,
) -> Any:
    """Return a column of finite numbers from `low` to `high`, null if empty or absent."""
    if column not in checked.file.columns:
        return pa.nulls(len(checked.file.rows), pa.from_numpy_dtype(kind))
    values = checked.file.columns[column]
    there = present(values)
    found, numeric = column_numbers(values)
    with np.errstate(over="ignore"):
        narrow = found.astype(kind)
    fits = numeric & np.isfinite(narrow) & (found >= low) & (found <= high)
    span = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
    if not math.isfinite(low):
        span = "that is finite"
    remedy = f"write a number {span}, or leave it empty"
    checked.mark(column, there & ~fits, f"{{}} is not a number {span}", remedy)
    return pa.array(narrow, mask=~(there & fits))


def texts(checked: Checked, column: str, max_bytes: int | None = None) -> Any:
    """Return a column of scalar values as text, null if missing, empty or absent.

    Raises:
        VireoError: the column holds lists, structs or binary values.
    """
    if column not in checked.file.columns:
        return pa.nulls(len(checked.file.rows), pa.string())
    values = checked.file.columns[column]
    kind = values.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        raise VireoError(
            f"{checked.file.name}, column {column}: values are of type {kind}; "
            "write text or numbers"
        )
    if is_text(kind):
        text = values.cast(pa.string())
        text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    else:
        text = pa.array([_text(value) for value in values.to_pylist()], pa.string())
    if max_bytes is not None:
        what = f"{{}} is over {max_bytes} bytes long"
        checked.mark(column, longer(text, max_bytes), what, "use shorter names or ids")
    return text


def longer(text: Any, max_bytes: int) -> BoolArray:
    """Return which texts have more bytes of UTF-8, bool[n]."""
    sizes = pc.binary_length(text).fill_null(0).to_numpy(zero_copy_only=False)
    return np.asarray(sizes > max_bytes, np.bool_)


def _text(value: Any) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    # Many tools turn integers with missing values into decimals.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def tags(checked: Checked, column: str) -> list[list[str]]:
    """Return each row's distinct tags, from lists of text or text separated by `|`."""
    values = checked.file.columns.get(column)
    if values is None or pa.types.is_null(values.type):
        return [[] for _ in checked.file.rows]
    if not (_is_list(values.type) or is_text(values.type)):
        raise VireoError(
            f"{checked.file.name}, column {column}: tags are of type {values.type}; "
            "write lists of text, or text with | between the tags"
        )
    return _distinct(values)


def labels(checked: Checked, column: str) -> list[list[str]]:
    """Return each row's distinct labels, from lists, or from values as text separated by `|`."""
    values = checked.file.columns[column]
    found = _distinct(values if _is_list(values.type) else texts(checked, column))
    long = (any(len(value.encode()) > MAX_VALUE_BYTES for value in row) for row in found)
    many = (len(row) > MAX_VALUES for row in found)
    checked.mark(
        column,
        np.fromiter(long, np.bool_, len(found)),
        f"a label of {{}} is over {MAX_VALUE_BYTES} bytes long",
        "shorten it, or write | between labels",
    )
    checked.mark(
        column,
        np.fromiter(many, np.bool_, len(found)),
        f"{{}} are over {MAX_VALUES} labels",
        "keep those that filters ask for",
    )
    return found


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _distinct(values: Any) -> list[list[str]]:
    """Return the distinct parts of each value of a column of lists, or of text with |."""
    if _is_list(values.type):
        lists: Iterator[list[Any]] = (value or [] for value in values.to_pylist())
    else:
        lists = ((value or "").split("|") for value in values.to_pylist())
    stripped = ([str(part).strip() for part in found if part is not None] for found in lists)
    return [list(dict.fromkeys(part for part in found if part)) for found in stripped]


def column_numbers(values: Any) -> tuple[Float64Array, BoolArray]:
    """Parse a column as numbers: float64[n], 0 if none, and which rows have one, bool[n]."""
    kind = values.type
    if is_text(kind):
        numeric = pc.match_substring_regex(values, _NUMBER).fill_null(False)
        kept = pc.if_else(numeric, pc.utf8_trim_whitespace(values), "0")
        # pandas can't read numbers beyond float64, such as 1e400.
        found = pd.to_numeric(kept.to_pandas(), errors="coerce").to_numpy(np.float64)
        fits = np.asarray(numeric.to_numpy(), np.bool_) & ~np.isnan(found)
        return np.where(fits, found, 0.0), fits
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        found = values.cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy()
        numeric = ~np.isnan(found)
        return np.where(numeric, found, 0.0), numeric
    return np.zeros(len(values)), np.zeros(len(values), np.bool_)
