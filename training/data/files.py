"""Reading a user's CSV or Parquet file into columns, each row with its number."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from server.errors import VireoError
from training.data.problems import BoolArray, Int64Array, Problems


@dataclass(frozen=True)
class UserFile:
    """A file as it was read: CSV columns are all text, Parquet columns are as stored."""

    name: str
    columns: dict[str, Any]
    """Column name to pyarrow ChunkedArray."""
    rows: Int64Array
    """Number of each row in the file, int64[n]: see `Problem.row`."""
    uneven: int = 0
    """How many rows were left out for having too many or too few fields."""

    def require(self, *names: str) -> None:
        """Raises VireoError unless the columns are there."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise VireoError(
                f"{self.name} has no column {', '.join(missing)}; it has "
                f"{', '.join(self.columns)}: rename its columns to those of the documented schema"
            )


def read_user_file(path: Path, problems: Problems) -> UserFile:
    """Reads a file; rows with too many or too few fields are problems and are left out.

    Raises:
        VireoError: it is neither, is missing, can't be read or has no usable header.
    """
    try:
        if path.suffix.lower() == ".csv":
            return _read_csv(path, problems)
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pq.read_table(path)
            table.validate(full=True)
            rows: Int64Array = np.arange(1, table.num_rows + 1)
            _check_header(path, table.column_names)
            columns = {name: _plain(table[name]) for name in table.column_names}
            return UserFile(path.name, columns, rows)
    except FileNotFoundError as error:
        raise VireoError(f"there is no file {path}; check the path") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise VireoError(f"cannot read {path}: {reason}; check the file") from error
    except pa.ArrowInvalid as error:
        raise VireoError(
            f"cannot read {path} as {path.suffix[1:]}: {error}; write the file again"
        ) from error
    raise VireoError(f"{path} is neither .csv nor .parquet; convert it to one of them")


def _read_csv(path: Path, problems: Problems) -> UserFile:
    header = _csv_header(path)
    uneven: list[tuple[int, int, str]] = []

    def note(row: Any) -> str:
        uneven.append((row.number, row.actual_columns, row.text or ""))
        return "skip"

    table = pyarrow.csv.read_csv(
        path,
        # Row numbers are known to one thread alone.
        read_options=pyarrow.csv.ReadOptions(use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(
            newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=note
        ),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.binary())),
    )
    for number, _, text in uneven:
        if "\n" in text:
            raise VireoError(
                f"{path.name}, row {number}: a quoted field runs over the end of the line and "
                'leaves the row uneven; close the quote (a " inside quotes is written "")'
            )
    numbers = np.array([number for number, _, _ in uneven], np.int64)
    fields = [count for _, count, _ in uneven]
    problems.add(
        path.name,
        "",
        numbers,
        np.ones(len(numbers), np.bool_),
        lambda position: f"{fields[position]} fields where the header has {len(header)}",
        "put text that contains commas in double quotes",
    )
    rows = np.setdiff1d(np.arange(2, 2 + table.num_rows + len(numbers)), numbers)
    lengths = [pc.binary_length(column).to_numpy() for column in table]
    full = np.any(lengths, axis=0)  # an empty line is no row
    return UserFile(
        path.name,
        {
            name: _decoded(path.name, name, table[name].filter(pa.array(full)), rows[full])
            for name in header
        },
        rows[full],
        len(uneven),
    )


def _csv_header(path: Path) -> list[str]:
    # The file is decoded in blocks: bad bytes further down are found later, with their row.
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


def _decoded(file: str, name: str, column: Any, rows: npt.NDArray[np.int64]) -> Any:
    """A column of bytes as text."""
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
    """A column with its values in place: categories and views of text are as good as text."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def present(column: Any) -> BoolArray:
    """Which values of a column are there: not null, not NaN, not empty where it is text."""
    there = pc.invert(column.is_null(nan_is_null=True)).to_numpy()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        there = there & (pc.binary_length(column).fill_null(0).to_numpy() > 0)
    return np.asarray(there, np.bool_)
