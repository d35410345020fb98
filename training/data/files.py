"""Reader of a user's CSV or Parquet file, part by part in columns, and the problems of its rows."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.errors import VireoError

BLOCK_BYTES = 32 << 20
"""Bytes of a CSV file parsed at a time; no row may be longer."""
ROWS_AT_A_TIME = 262_144
"""Rows of a Parquet file read at a time."""
_BUFFER_BYTES = 1 << 20
"""Bytes of each column of a Parquet file read at a time."""
PARQUET_SUFFIXES = (".parquet", ".pq")
SHOWN = 20
"""Number of problems listed; the rest are only counted."""


class BadRowsError(VireoError):
    """Files have bad rows; the message lists the first of them."""


@dataclass
class Problems:
    """Counts all problems of rows, and keeps the first SHOWN, so that the user can fix them.

    In a CSV file the header is row 1; in a Parquet file the first row is.
    """

    total: int = 0
    _kept: list[tuple[str, int, str, str]] = field(default_factory=list)
    """File, row, column and description of each."""

    def add(
        self,
        file: str,
        column: str,
        rows: Int64Array,
        bad: BoolArray,
        what: Callable[[int], str],
        remedy: str,
    ) -> None:
        """Add a problem for every bad row.

        Args:
            file: name of the file.
            column: name of the column, empty for the whole row.
            rows: each row's number in the file, int64[n].
            bad: which rows are bad, bool[n].
            what: describes the problem of the row at a position of `rows`.
            remedy: how to fix it.
        """
        positions = np.flatnonzero(bad)
        self.total += len(positions)
        for position in positions[:SHOWN].tolist():
            text = f"{what(position)}; {remedy}"
            self._kept.append((file, int(rows[position]), column, text))
        self._kept = sorted(self._kept)[:SHOWN]

    def error(self) -> BadRowsError:
        """Return the error that lists the first problems."""
        more = self.total - len(self._kept)
        lines = [
            f"{self.total} bad {'value' if self.total == 1 else 'values'}, nothing was imported; "
            "fix the files or pass --skip-bad-rows to drop such rows"
        ]
        for file, row, column, text in self._kept:
            lines.append(f"  {file}, row {row}{f', column {column}' if column else ''}: {text}")
        return BadRowsError("\n".join([*lines, *([f"  and {more} more"] if more else [])]))


@dataclass
class FilePart:
    """Some rows of a file: CSV columns are all text, Parquet columns are as stored."""

    name: str
    """Name of the file."""
    columns: dict[str, Any]
    """Column name to pyarrow ChunkedArray."""
    rows: Int64Array
    """Number of each row in the file, int64[n]: see `Problems`."""
    problems: Problems
    uneven: int = 0
    """Number of rows dropped because they have too many or too few fields."""
    bad: BoolArray = field(init=False)
    """Which rows were marked, bool[n]."""

    def __post_init__(self) -> None:
        self.bad = np.zeros(len(self.rows), np.bool_)

    @property
    def bad_count(self) -> int:
        """Number of rows that were marked or dropped."""
        return int(self.bad.sum()) + self.uneven

    def require(self, *names: str) -> None:
        """Raise VireoError if a column is missing."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise VireoError(
                f"{self.name} has no column {', '.join(missing)}; it has "
                f"{', '.join(self.columns)}: rename its columns to those of the documented schema"
            )

    def mark(self, column: str, bad: BoolArray, what: str, remedy: str) -> None:
        """Record bad rows as a problem; {} in `what` stands for the row's value."""

        def described(position: int) -> str:
            # A missing time can't be shown.
            return what.replace("{}", self.shown(column, position)) if "{}" in what else what

        self.problems.add(self.name, column, self.rows, bad, described, remedy)
        self.bad |= bad

    def shown(self, column: str, position: int) -> str:
        """Return a value of the file, truncated for a message."""
        scalar = self.columns[column][position]
        if pa.types.is_temporal(scalar.type):  # datetime can't hold all of them
            text = scalar.cast(pa.string()).as_py()
        else:
            text = repr(scalar.as_py())
        return text if len(text) <= 60 else f"{text[:57]}..."


def is_parquet(path: Path) -> bool:
    """Return whether a file's name says Parquet rather than CSV; raise VireoError if neither."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", *PARQUET_SUFFIXES):
        raise VireoError(f"{path} is neither .csv nor .parquet; convert it to one of them")
    return suffix != ".csv"


def read_parts(path: Path, problems: Problems) -> Iterator[FilePart]:
    """Yield a file's rows in order, in at least one part.

    Rows with too many or too few fields are reported as problems and dropped.

    Raises:
        VireoError: the file is missing, can't be read or has no usable header.
    """
    read = _parquet_parts if is_parquet(path) else _csv_parts
    try:
        yield from read(path, problems)
    except FileNotFoundError as error:
        raise VireoError(f"there is no file {path}; check the path") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise VireoError(f"cannot read {path}: {reason}; check the file") from error
    except pa.ArrowInvalid as error:
        raise VireoError(
            f"cannot read {path} as {path.suffix[1:]}: {error}; write the file again"
        ) from error


def _parquet_parts(path: Path, problems: Problems) -> Iterator[FilePart]:
    first = 1
    for file, partition in _parquet_files(path):
        _check_header(path, [*file.schema_arrow.names, *partition])
        # A file without rows has no batch, yet it has columns.
        for batch in itertools.chain(file.iter_batches(ROWS_AT_A_TIME, use_threads=False), [None]):
            table = pa.Table.from_batches([batch] if batch else [], file.schema_arrow)
            table.validate(full=True)
            columns = {name: _plain(table[name]) for name in table.column_names}
            for name, value in partition.items():
                columns[name] = pa.chunked_array([pa.repeat(value, len(table))])
            yield FilePart(path.name, columns, np.arange(first, first + len(table)), problems)
            first += len(table)


def _parquet_files(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield a file, or those of a folder with the values of their Hive partitions.

    A pyarrow dataset would hold a row group in memory, which may be the whole file.
    """
    if not path.is_dir():
        yield pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES), {}
        return
    folder = pyarrow.dataset.dataset(path, format="parquet", partitioning="hive")
    for fragment in folder.get_fragments():
        partition = pyarrow.dataset.get_partition_keys(fragment.partition_expression)
        yield pyarrow.parquet.ParquetFile(fragment.path, buffer_size=_BUFFER_BYTES), partition


def _csv_parts(path: Path, problems: Problems) -> Iterator[FilePart]:
    header = _csv_header(path)
    found: list[Any] = []

    def note(row: Any) -> str:
        found.append(row)
        return "skip"

    reader = pyarrow.csv.open_csv(
        path,
        # Only single-threaded parsing reports row numbers.
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(
            newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=note
        ),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.binary())),
    )
    next_row = 2
    skipped: Int64Array = np.arange(0)
    # The last part has no rows; it reports the uneven rows after the last good one.
    for batch in itertools.chain(reader, [None]):
        table = pa.Table.from_batches([batch] if batch else [], reader.schema)
        uneven = _uneven_rows(path, found, len(header), problems)
        found.clear()
        # The reader reads blocks ahead, so these may belong to later parts.
        skipped = np.append(skipped, uneven)
        rows = np.arange(next_row, next_row + table.num_rows + len(skipped))
        rows = np.setdiff1d(rows, skipped)[: table.num_rows]
        next_row = int(rows[-1]) + 1 if len(rows) else next_row
        skipped = skipped[skipped >= next_row]
        lengths = [pc.binary_length(column).to_numpy() for column in table]
        full = np.any(lengths, axis=0)  # an empty line isn't a row
        columns = {
            name: _decoded(path.name, name, table[name].filter(pa.array(full)), rows[full])
            for name in header
        }
        yield FilePart(path.name, columns, rows[full], problems, len(uneven))


def _uneven_rows(path: Path, found: list[Any], fields: int, problems: Problems) -> Int64Array:
    """Report rows with too many or too few fields; return their numbers."""
    for row in found:
        if "\n" in (row.text or ""):
            raise VireoError(
                f"{path.name}, row {row.number}: a quoted field runs over the end of the line and "
                'leaves the row uneven; close the quote (a " inside quotes is written "")'
            )
    numbers = np.array([row.number for row in found], np.int64)
    problems.add(
        path.name,
        "",
        numbers,
        np.ones(len(found), np.bool_),
        lambda position: f"{found[position].actual_columns} fields, but the header has {fields}",
        "put text that contains commas in double quotes",
    )
    return numbers


def _csv_header(path: Path) -> list[str]:
    # The file is decoded in blocks: later bad bytes are reported with their row.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        header = next(csv.reader(file), [])
    try:
        "".join(header).encode()
    except UnicodeEncodeError as error:
        raise VireoError(f"{path.name}: the header is not UTF-8; save the file as UTF-8") from error
    _check_header(path, header)
    return header


def _check_header(path: Path, header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if not header:
        raise VireoError(f"{path} is empty; its first line must name the columns")
    if twice:
        raise VireoError(f"{path} has two columns named {twice[0]!r}; rename one of them")


def _decoded(file: str, name: str, column: Any, rows: Int64Array) -> Any:
    """Decode a column of bytes as UTF-8."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid as error:
        for value, row in zip(column, rows.tolist(), strict=True):
            try:
                value.as_py().decode()
            except UnicodeDecodeError as where:
                raise VireoError(
                    f"{file}, row {row}, column {name}: {where.object!r} is not UTF-8; "
                    "save the file as UTF-8"
                ) from error
        raise


def _plain(column: Any) -> Any:
    """Return a column with dictionaries decoded and string views as large strings."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column's type is text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def present(column: Any) -> BoolArray:
    """Return which values are present: not null, not NaN, and not empty if text."""
    there = pc.invert(column.is_null(nan_is_null=True)).to_numpy()
    if is_text(column.type):
        there = there & (pc.binary_length(column).fill_null(0).to_numpy() > 0)
    return np.asarray(there, np.bool_)
