"""Turning a user's columns into ids, times, numbers and tags; what can't be is a problem."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from server.errors import VireoError
from training.data.files import UserFile, present
from training.data.problems import BoolArray, Problems
from training.data.schema import TIME

ID_BYTES = 128
"""Ids are at most this long in UTF-8."""
ATTRIBUTE_BYTES = 256
"""So are attributes, as "name=value"."""
_NUMBER = r"^\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*$"
_DECIMAL_ID = r"^-?\d+\.0+$"
_LATEST = 1e11
"""Unix seconds from here on (the year 5138) are milliseconds by mistake."""

Float64Array = npt.NDArray[np.float64]


@dataclass
class Checked:
    """A file whose columns are read one by one; remembers which rows are bad."""

    file: UserFile
    problems: Problems
    bad: BoolArray

    @staticmethod
    def of(file: UserFile, problems: Problems) -> Checked:
        """Nothing is bad yet."""
        return Checked(file, problems, np.zeros(len(file.rows), np.bool_))

    def mark(self, column: str, bad: BoolArray, what: Any, remedy: str) -> None:
        """Notes bad rows, each once for a reason; `what` says it from a position."""
        self.problems.add(self.file.name, column, self.file.rows, bad, what, remedy)
        self.bad |= bad

    def shown(self, column: str, position: int) -> str:
        """A value of the file, shortened for a message."""
        text = repr(self.file.columns[column][position].as_py())
        return text if len(text) <= 60 else f"{text[:57]}..."


def ids(checked: Checked, column: str) -> Any:
    """A column of ids as text, unchanged: 007 stays 007, the integer 7 is 7.

    Raises:
        VireoError: the column holds decimals, which is what integers with gaps turn into.
    """
    values = checked.file.columns[column]
    kind = values.type
    if pa.types.is_floating(kind):
        raise _decimal_ids(checked, column, 0)
    if not (
        pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ):
        raise VireoError(
            f"{checked.file.name}, column {column}: ids are of type {kind}; "
            "write them as text or integers"
        )
    there = present(values)
    text = values.cast(pa.string())
    decimal = pc.match_substring_regex(text, _DECIMAL_ID).fill_null(False).to_numpy()
    if there.any() and decimal[there].all():
        raise _decimal_ids(checked, column, int(np.argmax(there)))
    long = pc.binary_length(text).fill_null(0).to_numpy() > ID_BYTES
    checked.mark(column, ~there, lambda _: "the id is missing", "give every row its id")
    checked.mark(
        column,
        np.asarray(long, np.bool_),
        lambda position: f"the id {checked.shown(column, position)} is over {ID_BYTES} bytes long",
        f"use ids of 1 to {ID_BYTES} bytes of UTF-8",
    )
    return text.fill_null("")


def _decimal_ids(checked: Checked, column: str, position: int) -> VireoError:
    rows = checked.file.rows
    place = f", row {rows[position]}" if len(rows) else ""
    example = f" like {checked.shown(column, position)}" if len(rows) else ""
    return VireoError(
        f"{checked.file.name}{place}, column {column}: ids are decimal numbers{example}, which is "
        "what integers with missing values turn into; write them as integers or text"
    )


def times(checked: Checked, column: str, required: bool) -> Any:
    """A column of times as TIME: Unix seconds, ISO 8601 text, or timestamps; no zone is UTC.

    Args:
        checked: the file.
        column: which column.
        required: whether a missing time, or one before 1970, is a problem.
    """
    values = checked.file.columns[column]
    kind = values.type
    there = present(values)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        stamps = values.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False)
        micros = stamps.cast(pa.int64()).fill_null(0).to_numpy().astype(np.int64)
        readable = there
        numeric = np.zeros(len(there), np.bool_)
        late = np.zeros(len(there), np.bool_)
    else:
        seconds, numeric = _numbers(values)
        late = numeric & ~(np.abs(seconds) < _LATEST)
        micros = np.where(numeric & ~late, np.rint(seconds * 1e6), 0).astype(np.int64)
        readable = numeric
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            iso, is_iso = _iso_times(values, there & ~numeric)
            micros = np.where(is_iso, iso, micros)
            readable = numeric | is_iso
    checked.mark(
        column,
        late,
        lambda position: f"{checked.shown(column, position)} is no Unix time in seconds",
        "divide milliseconds by 1,000",
    )
    checked.mark(
        column,
        there & ~readable,
        lambda position: f"{checked.shown(column, position)} is no time",
        "write Unix seconds or ISO 8601, for example 2024-05-01T12:00:00Z",
    )
    if not required:
        checked.mark(
            column,
            numeric & (micros >= 1_000e6) & (micros < 10_000e6),
            lambda position: f"{checked.shown(column, position)} is a year, not Unix seconds",
            "write the day, for example 1995-01-01",
        )
    if required:
        checked.mark(column, ~there, lambda _: "the time is missing", "give every row its time")
        checked.mark(
            column,
            readable & (micros < 0),
            lambda position: f"{checked.shown(column, position)} is before 1970",
            "write the time of the event",
        )
    return pa.array(micros, pa.int64(), mask=~readable | late).cast(TIME)


def numbers(checked: Checked, column: str, low: float, high: float) -> Any:
    """A column of numbers from `low` to `high` as float32; null where it is empty or absent."""
    if column not in checked.file.columns:
        return pa.nulls(len(checked.file.rows), pa.float32())
    values = checked.file.columns[column]
    there = present(values)
    found, numeric = _numbers(values)
    fits = numeric & np.isfinite(found) & (found >= low) & (found <= high)
    span = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
    if not math.isfinite(low):
        span = "that is finite"
    checked.mark(
        column,
        there & ~fits,
        lambda position: f"{checked.shown(column, position)} is no number {span}",
        f"write a number {span}, or leave it empty",
    )
    return pa.array(found.astype(np.float32), mask=~(there & fits))


def texts(checked: Checked, column: str) -> list[str | None]:
    """A column of any plain values as text; None where one is missing.

    Raises:
        VireoError: the column holds lists or the like.
    """
    values = checked.file.columns[column]
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        raise VireoError(
            f"{checked.file.name}, column {column}: values are of type {values.type}; "
            "write text or numbers"
        )
    return [_text(value) for value in values.to_pylist()]


def _text(value: Any) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    # Integers with gaps turn into decimals on their way through many tools.
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def tags(checked: Checked, column: str) -> list[list[str]]:
    """A column of tags: lists of text, or text in which `|` separates them; each once."""
    values = checked.file.columns.get(column)
    if values is None or pa.types.is_null(values.type):
        return [[] for _ in checked.file.rows]
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lists: Iterator[list[Any]] = (value or [] for value in values.to_pylist())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        lists = ((value or "").split("|") for value in values.to_pylist())
    else:
        raise VireoError(
            f"{checked.file.name}, column {column}: tags are of type {kind}; "
            "write lists of text, or text with | between the tags"
        )
    stripped = ([str(tag).strip() for tag in found if tag is not None] for found in lists)
    return [list(dict.fromkeys(tag for tag in found if tag)) for found in stripped]


def _numbers(values: Any) -> tuple[Float64Array, BoolArray]:
    """The numbers of a column, 0 elsewhere, and where they are; text may hold them too."""
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        numeric = pc.match_substring_regex(values, _NUMBER).fill_null(False)
        kept = pc.if_else(numeric, pc.utf8_trim_whitespace(values), "0")
        # pandas can't read numbers that float64 doesn't hold, such as 1e400.
        found = pd.to_numeric(kept.to_pandas(), errors="coerce").to_numpy(np.float64)
        fits = np.asarray(numeric.to_numpy(), np.bool_) & ~np.isnan(found)
        return np.where(fits, found, 0.0), fits
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        found = values.cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy()
        numeric = ~np.isnan(found)
        return np.where(numeric, found, 0.0), numeric
    return np.zeros(len(values)), np.zeros(len(values), np.bool_)


def _iso_times(values: Any, wanted: BoolArray) -> tuple[npt.NDArray[np.int64], BoolArray]:
    """ISO 8601 texts as Unix microseconds, 0 elsewhere, and where they are."""
    micros = np.zeros(len(wanted), np.int64)
    found = np.zeros(len(wanted), np.bool_)
    if wanted.any() and (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        text = values.filter(pa.array(wanted)).to_pandas()
        parsed = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
        parsed = parsed.astype("datetime64[us, UTC]")
        found[wanted] = parsed.notna().to_numpy()
        micros[found] = parsed.dropna().astype("int64").to_numpy()
    return micros, found
