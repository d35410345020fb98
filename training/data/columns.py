"""Columns of a user's files as ids, numbers, text, tags and times; bad values are problems."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.arrays import BoolArray, Float64Array, Int64Array
from vireo.server.errors import VireoError
from vireo.server.recommend.filters.declared import MAX_VALUE_BYTES
from vireo.training.data.files import FilePart, Problems, is_text, present, read_parts
from vireo.training.data.schema import MAX_VALUES, TIME

ID_BYTES = 128
"""Maximum length of an id in UTF-8."""
ATTRIBUTE_BYTES = 256
"""Maximum length of an attribute, "name=value", in UTF-8."""
_NUMBER = r"^\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*$"
_DECIMAL_ID = r"^-?\d+\.0+$"

MAX_CLOCK_SKEW = timedelta(days=1)
"""Maximum time of an event in the future: clocks and local time zones differ."""
MAX_PUBLISHED_AHEAD = timedelta(days=3650)
"""Maximum time in the future at which a video may be announced."""
EARLIEST_PUBLISHED = datetime(1700, 1, 1, tzinfo=UTC)
"""Some databases write year 1 for "unknown", which pandas' 64-bit nanoseconds can't hold."""
_MICROS = 1_000_000
_MAX_SECONDS = 1e11
"""Unix seconds from this value on (the year 5138) are taken for milliseconds."""
# Four groups and no choice between them: RE2 is five times as fast then.
_ISO_8601 = (
    r"^(?P<date>\d{4}[-/]?(?:0[1-9]|1[0-2])(?:[-/]?(?:0[1-9]|[12]\d|3[01]))?)"
    r"(?:[Tt ](?P<time>(?:[01]\d|2[0-3])(?::?[0-5]\d(?::?[0-5]\d)?)?)(?:[.,](?P<fraction>\d+))?"
    r" ?(?:[Zz]|UTC|(?P<zone>[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?))?)?$"
)
"""A month or day, optionally a time of day, optionally a zone."""


@dataclass(frozen=True)
class Column:
    """A column that is made of a column of a user's file."""

    read: Callable[[FilePart, str], Any]
    """Converts a part's column of this name to an array or lists, and marks rows that can't be."""
    source: str = ""
    """Column of the file; the same name if empty."""
    required: bool = False


def read_columns(
    path: Path, columns: Mapping[str, Column], problems: Problems, notes: Counter[str], kind: str
) -> Iterator[tuple[FilePart, dict[str, Any]]]:
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
    for part in read_parts(path, problems):
        part.require(*(sources[name] for name, column in columns.items() if column.required))
        ignored = [name for name in part.columns if name not in sources.values()]
        if ignored:
            notes[f"columns of {kind} ignored: {', '.join(ignored)}"] = len(ignored)
        yield part, {name: each.read(part, sources[name]) for name, each in columns.items()}


class IdColumn:
    """Reads a column of ids as text, part by part: 007 stays 007, the integer 7 becomes "7"."""

    def __init__(self) -> None:
        self._decimals = ""
        """What is wrong if no other id comes: every id so far is a decimal."""
        self._others = False

    def read(self, part: FilePart, column: str) -> Any:
        """Return a part's ids, empty if missing; raise VireoError if not text or integers."""
        values = part.columns[column]
        if not (pa.types.is_integer(values.type) or is_text(values.type)):
            raise VireoError(
                f"{part.name}, column {column}: ids are of type {values.type}; "
                "write them as text or integers"
            )
        there, text = present(values), values.cast(pa.string())
        decimal = pc.match_substring_regex(text, _DECIMAL_ID).fill_null(False).to_numpy()
        self._others = self._others or bool((there & ~decimal).any())
        if not self._decimals and there.any():
            first = int(np.argmax(there))
            self._decimals = (
                f"{part.name}, row {part.rows[first]}, column {column}: ids are decimal numbers "
                f"like {part.shown(column, first)}, which is what integers with missing values "
                "turn into; write them as integers or text"
            )
        part.mark(column, ~there, "the id is missing", "give every row its id")
        too_long = f"the id {{}} is over {ID_BYTES} bytes long"
        remedy = f"use ids of 1 to {ID_BYTES} bytes of UTF-8"
        part.mark(column, longer(text, ID_BYTES), too_long, remedy)
        return text.fill_null("")

    def close(self) -> None:
        """Raise VireoError if every id was a decimal, as integers with missing values become.

        Ids like 1.0 beside others are text.
        """
        if self._decimals and not self._others:
            raise VireoError(self._decimals)


def numbers(
    part: FilePart,
    column: str,
    low: float = -math.inf,
    high: float = math.inf,
    kind: type[np.floating] = np.float32,
) -> Any:
    """Return a column of finite numbers from `low` to `high`, null if empty or absent."""
    if column not in part.columns:
        return pa.nulls(len(part.rows), pa.from_numpy_dtype(kind))
    values = part.columns[column]
    there = present(values)
    found = _parsed(values)
    with np.errstate(over="ignore"):
        narrow = found.astype(kind)
    fits = np.isfinite(narrow) & (found >= low) & (found <= high)
    span = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
    if not math.isfinite(low):
        span = "that is finite"
    remedy = f"write a number {span}, or leave it empty"
    part.mark(column, there & ~fits, f"{{}} is not a number {span}", remedy)
    return pa.array(narrow, mask=~(there & fits))


def _parsed(values: Any) -> Float64Array:
    """Return a column's values as numbers, NaN if they are none, float64[n]."""
    kind, found = values.type, np.full(len(values), np.nan)
    if is_text(kind):
        numeric = pc.match_substring_regex(values, _NUMBER)
        kept = pc.if_else(numeric, pc.utf8_trim_whitespace(values), pa.scalar(None, kind))
        # pandas can't read numbers beyond float64, such as 1e400.
        found = pd.to_numeric(kept.to_pandas(), errors="coerce").to_numpy(np.float64)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        found = values.cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy()
    return found


def texts(part: FilePart, column: str, max_bytes: int | None = None) -> Any:
    """Return a column of scalar values as text, null if missing, empty or absent.

    Raises:
        VireoError: the column holds lists, structs or binary values.
    """
    if column not in part.columns:
        return pa.nulls(len(part.rows), pa.string())
    values = part.columns[column]
    kind = values.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        raise VireoError(
            f"{part.name}, column {column}: values are of type {kind}; write text or numbers"
        )
    if is_text(kind):
        text = values.cast(pa.string())
        text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    else:
        text = pa.array([_text(value) for value in values.to_pylist()], pa.string())
    if max_bytes is not None:
        what = f"{{}} is over {max_bytes} bytes long"
        part.mark(column, longer(text, max_bytes), what, "use shorter names or ids")
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


def tags(part: FilePart, column: str) -> list[list[str]]:
    """Return each row's distinct tags, from lists of text or text separated by `|`."""
    values = part.columns.get(column)
    if values is None or pa.types.is_null(values.type):
        return [[] for _ in part.rows]
    if not (_is_list(values.type) or is_text(values.type)):
        raise VireoError(
            f"{part.name}, column {column}: tags are of type {values.type}; "
            "write lists of text, or text with | between the tags"
        )
    return _distinct(values)


def labels(part: FilePart, column: str) -> list[list[str]]:
    """Return each row's distinct labels, from lists, or from values as text separated by `|`."""
    values = part.columns[column]
    found = _distinct(values if _is_list(values.type) else texts(part, column))
    long = [any(len(value.encode()) > MAX_VALUE_BYTES for value in row) for row in found]
    what = f"a label of {{}} is over {MAX_VALUE_BYTES} bytes long"
    part.mark(column, np.array(long, np.bool_), what, "shorten it, or write | between labels")
    many = np.array([len(row) > MAX_VALUES for row in found], np.bool_)
    part.mark(column, many, f"{{}} are over {MAX_VALUES} labels", "keep those that filters ask for")
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


def event_times(part: FilePart, column: str, now: datetime) -> Any:
    """Return a column of event times as TIME; missing, early or future ones are problems.

    Events may be up to MAX_CLOCK_SKEW later than `now`, the current time.
    """
    micros, readable, _ = _times(part, column)
    there = present(part.columns[column])
    part.mark(column, ~there, "the time is missing", "give every row its time")
    early = readable & (micros < 0)
    part.mark(column, early, "{} is before 1970", "write the time of the event")
    late = readable & (micros > unix_micros(now + MAX_CLOCK_SKEW))
    part.mark(
        column,
        late,
        f"{{}} is in the future (it is {now:%Y-%m-%dT%H:%MZ} now)",
        "write the time of the event, or set this machine's clock",
    )
    return pa.array(micros, pa.int64(), mask=~readable | early | late).cast(TIME)


def published_times(part: FilePart, column: str, now: datetime) -> Any:
    """Return a column of publication times as TIME, null if missing or absent.

    Times may be up to MAX_PUBLISHED_AHEAD later than `now`, the current time.
    """
    if column not in part.columns:
        return pa.nulls(len(part.rows), TIME)
    micros, readable, numeric = _times(part, column)
    # As Unix seconds these lie before 12 January 1970, where no video is lost.
    year = numeric & (micros >= 1e3 * _MICROS) & (micros < 1e6 * _MICROS)
    remedy = "write the day, for example 1995-01-01"
    part.mark(column, year, "{} is a year or month, not Unix seconds", remedy)
    first, last = EARLIEST_PUBLISHED, now + MAX_PUBLISHED_AHEAD
    outside = readable & ((micros < unix_micros(first)) | (micros > unix_micros(last)))
    part.mark(
        column,
        outside,
        f"{{}} is not from {first.year} to {last.year}",
        "write the day that it was published, or leave it empty",
    )
    return pa.array(micros, pa.int64(), mask=~readable | year | outside).cast(TIME)


def unix_micros(moment: datetime) -> int:
    """Return a time in Unix microseconds, rounded to seconds."""
    return round(moment.timestamp()) * _MICROS


def _times(part: FilePart, column: str) -> tuple[Int64Array, BoolArray, BoolArray]:
    """Parse a column of Unix seconds, ISO 8601 text, or Parquet timestamps and dates.

    Returns:
        Unix microseconds, int64[n], 0 if unreadable; which rows have a time, bool[n]; and which of
        these were written as numbers.
    """
    values = part.columns[column]
    there = present(values)
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return _stored(values), there, np.zeros(len(there), np.bool_)
    seconds = _parsed(values)
    milliseconds = np.abs(seconds) >= _MAX_SECONDS
    what = "{} is not a Unix time in seconds"
    part.mark(column, milliseconds, what, "divide milliseconds by 1,000")
    numeric = np.abs(seconds) < _MAX_SECONDS
    seconds = np.where(numeric, seconds, 0.0)
    day = numeric & _is_written_day(seconds)
    remedy = "write it with dashes, for example 2024-05-01"
    part.mark(column, day, "{} is a day, not Unix seconds", remedy)
    text = there & ~numeric & ~milliseconds
    iso, is_iso = _iso_times(values, text)
    remedy = "write Unix seconds or ISO 8601, for example 2024-05-01T12:00:00Z"
    part.mark(column, text & ~is_iso, "{} is not a time", remedy)
    micros = np.where(is_iso, iso, np.rint(seconds * _MICROS).astype(np.int64))
    return micros, (numeric & ~day) | is_iso, numeric & ~day


def _stored(values: Any) -> Int64Array:
    """Return timestamps or dates as Unix microseconds, clipped to int64."""
    kind = values.type
    per_second = {"s": 1, "ms": 1_000, "us": _MICROS, "ns": 1_000 * _MICROS}
    unit = "ms" if pa.types.is_date64(kind) else getattr(kind, "unit", "day")
    width = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    stored: Int64Array = values.cast(width).fill_null(0).to_numpy().astype(np.int64)
    if unit == "ns":
        return stored // 1_000
    factor = 86_400 * _MICROS if unit == "day" else _MICROS // per_second[unit]
    most = np.iinfo(np.int64).max // factor
    return np.clip(stored, -most, most) * factor


def _is_written_day(seconds: Float64Array) -> BoolArray:
    """Return which numbers look like a day without dashes, such as 20240501."""
    year, month_and_day = np.divmod(seconds, 10_000)
    month, day = np.divmod(month_and_day, 100)
    in_calendar = (year >= 1900) & (year < 2100) & (month >= 1) & (month <= 12)
    return np.asarray(in_calendar & (day >= 1) & (day <= 31) & (day % 1 == 0), np.bool_)


def _iso_times(values: Any, wanted: BoolArray) -> tuple[Int64Array, BoolArray]:
    """Parse ISO 8601 texts to Unix microseconds, 0 if none, and return which rows have one.

    Each is parsed on its own; pandas gives a time without a zone the previous one's zone.
    """
    micros, found = np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    if not wanted.any() or not is_text(values.type):
        return micros, found
    text = pc.utf8_trim_whitespace(values.filter(pa.array(wanted)))
    fields = pc.extract_regex(text, _ISO_8601).combine_chunks()
    date = _digits(fields, "date", 8)
    months = 12 * (date // 10_000 - 1970) + date // 100 % 100 - 1
    first = months.astype("datetime64[M]").astype("datetime64[D]")
    day = first + np.maximum(date % 100, 1) - 1
    exists = day.astype("datetime64[M]").astype(np.int64) == months  # false for 30 February
    time, offset = _digits(fields, "time", 6), _digits(fields, "zone", 4)
    offset = 3600 * (offset // 100) + 60 * (offset % 100)
    east = pc.starts_with(fields.field("zone"), "+").fill_null(False)
    seconds = 3600 * (time // 10_000) + 60 * (time // 100 % 100) + time % 100
    seconds = seconds + np.where(east.to_numpy(zero_copy_only=False), -offset, offset)
    read = (86_400 * day.astype(np.int64) + seconds) * _MICROS + _digits(fields, "fraction", 6)
    valid = exists & fields.is_valid().to_numpy(zero_copy_only=False)
    found[wanted] = valid
    micros[found] = read[valid]
    return micros, found


def _digits(fields: Any, name: str, count: int) -> Int64Array:
    """Return a field's first `count` digits as a number, padded with zeros on the right."""
    text = fields.field(name).fill_null("")
    for mark in "-/:+":
        text = pc.replace_substring(text, mark, "")
    text = pc.utf8_rpad(pc.utf8_slice_codeunits(text, 0, count), count, "0")
    return np.asarray(text.cast(pa.int64()).to_numpy(), np.int64)
