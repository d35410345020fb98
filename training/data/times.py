"""Parser of a user's times: Unix seconds, ISO 8601 text, Parquet timestamps and dates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vireo.server.arrays import BoolArray, Float64Array, Int64Array
from vireo.server.errors import VireoError
from vireo.training.data.columns import Checked, column_numbers
from vireo.training.data.files import is_text, present
from vireo.training.data.schema import TIME

MAX_CLOCK_SKEW = timedelta(days=1)
"""Maximum time of an event in the future: clocks and local time zones differ."""
MAX_PUBLISHED_AHEAD = timedelta(days=3650)
"""Maximum time in the future at which a video may be announced."""
EARLIEST_PUBLISHED = datetime(1700, 1, 1, tzinfo=UTC)
"""Some databases write year 1 for "unknown", which pandas' 64-bit nanoseconds can't hold."""

EARLIEST_USUAL = datetime(1990, 1, 1, tzinfo=UTC)
"""Where most events are earlier, their times are hardly Unix seconds."""

_MICROS = 1_000_000
_MIN_EVENTS = 1_000
"""Fewer events may be early if no unit is likely, as in a trial with times 1, 2, 3."""
_UNITS = (
    # Unit, its seconds, and its number at the Unix epoch.
    ("days since 1900, as in Excel", 86_400, 25_569),
    ("days since 1970", 86_400, 0),
    ("hours since 1970", 3600, 0),
    ("minutes since 1970", 60, 0),
)
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
class _Moments:
    """A column of parsed times, one entry per row."""

    micros: Int64Array
    """Unix microseconds, int64[n]; 0 if unreadable."""
    readable: BoolArray
    numeric: BoolArray
    """Which times were written as numbers, bool[n]."""

    def column(self, bad: BoolArray) -> Any:
        """Return the times as TIME, null if unreadable or bad."""
        return pa.array(self.micros, pa.int64(), mask=~self.readable | bad).cast(TIME)


def event_times(checked: Checked, column: str, now: datetime) -> Any:
    """Return a column of event times as TIME; missing, early or future ones are problems.

    Events may be up to MAX_CLOCK_SKEW later than `now`, the current time.
    """
    moments = _read(checked, column)
    there = present(checked.file.columns[column])
    checked.mark(column, ~there, "the time is missing", "give every row its time")
    early = moments.readable & (moments.micros < 0)
    checked.mark(column, early, "{} is before 1970", "write the time of the event")
    late = moments.readable & (moments.micros > unix_micros(now + MAX_CLOCK_SKEW))
    checked.mark(
        column,
        late,
        f"{{}} is in the future (it is {now:%Y-%m-%dT%H:%MZ} now)",
        "write the time of the event, or set this machine's clock",
    )
    return moments.column(early | late)


def check_years(name: str, column: str, times: Int64Array, now: datetime) -> None:
    """Raise VireoError if most events are before EARLIEST_USUAL; it names the likely unit.

    Args:
        name: the file's name.
        column: the column's name.
        times: Unix microseconds, int64[n].
        now: the current time.
    """
    if not len(times) or (middle := float(np.median(times))) >= unix_micros(EARLIEST_USUAL):
        return
    unit = _likely_unit(times / _MICROS, now)
    if not unit and len(times) < _MIN_EVENTS:
        return
    raise VireoError(
        f"{name}, column {column}: most times are before {EARLIEST_USUAL.year} as Unix seconds, "
        f"the middle one is {middle / _MICROS:.15g}"
        + (f"; they look like {unit}" if unit else "")
        + "; write Unix seconds or ISO 8601, for example 2024-05-01T12:00:00Z"
    )


def _likely_unit(numbers: Float64Array, now: datetime) -> str:
    """Return the unit in which most numbers are times from EARLIEST_USUAL to now, empty if none."""
    year, month = np.divmod(numbers, 100)
    in_range = (year >= EARLIEST_USUAL.year) & (year <= now.year)
    # Of hours, a tenth would end like a month.
    if np.mean(in_range & (month >= 1) & (month <= 12) & (month % 1 == 0)) > 0.5:
        return "months, as in 202405"
    if np.mean((numbers >= EARLIEST_USUAL.year) & (numbers <= now.year)) > 0.5:
        return "years"
    first, last = EARLIEST_USUAL.timestamp(), (now + MAX_CLOCK_SKEW).timestamp()
    for unit, seconds, epoch in _UNITS:
        moments = (numbers - epoch) * seconds
        if np.mean((moments >= first) & (moments <= last)) > 0.5:
            return unit
    return ""


def published_times(checked: Checked, column: str, now: datetime) -> Any:
    """Return a column of publication times as TIME, null if missing or absent.

    Times may be up to MAX_PUBLISHED_AHEAD later than `now`, the current time.
    """
    if column not in checked.file.columns:
        return pa.nulls(len(checked.file.rows), TIME)
    moments = _read(checked, column)
    # As Unix seconds these lie before 12 January 1970, where no video is lost.
    year = moments.numeric & (moments.micros >= 1e3 * _MICROS) & (moments.micros < 1e6 * _MICROS)
    checked.mark(
        column,
        year,
        "{} is a year or month, not Unix seconds",
        "write the day, for example 1995-01-01",
    )
    first, last = EARLIEST_PUBLISHED, now + MAX_PUBLISHED_AHEAD
    outside = moments.readable & (
        (moments.micros < unix_micros(first)) | (moments.micros > unix_micros(last))
    )
    checked.mark(
        column,
        outside,
        f"{{}} is not from {first.year} to {last.year}",
        "write the day that it was published, or leave it empty",
    )
    return moments.column(year | outside)


def unix_micros(moment: datetime) -> int:
    """Return a time in Unix microseconds, rounded to seconds."""
    return round(moment.timestamp()) * _MICROS


def _read(checked: Checked, column: str) -> _Moments:
    values = checked.file.columns[column]
    kind = values.type
    there = present(values)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _Moments(_stored(values), there, np.zeros(len(there), np.bool_))
    seconds, numeric = column_numbers(values)
    milliseconds = numeric & ~(np.abs(seconds) < _MAX_SECONDS)
    what = "{} is not a Unix time in seconds"
    checked.mark(column, milliseconds, what, "divide milliseconds by 1,000")
    numeric = numeric & ~milliseconds
    seconds = np.where(numeric, seconds, 0.0)
    day = numeric & _is_written_day(seconds)
    remedy = "write it with dashes, for example 2024-05-01"
    checked.mark(column, day, "{} is a day, not Unix seconds", remedy)
    micros = np.rint(seconds * _MICROS).astype(np.int64)
    iso, is_iso = _iso_times(values, there & ~numeric & ~milliseconds)
    checked.mark(
        column,
        there & ~numeric & ~milliseconds & ~is_iso,
        "{} is not a time",
        "write Unix seconds or ISO 8601, for example 2024-05-01T12:00:00Z",
    )
    return _Moments(np.where(is_iso, iso, micros), (numeric & ~day) | is_iso, numeric & ~day)


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
