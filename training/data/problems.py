"""Problems in the rows of a user's files, described so that the user can fix them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vireo.server.arrays import BoolArray, Int64Array
from vireo.server.errors import VireoError

SHOWN = 20
"""Number of problems listed; the rest are only counted."""


class BadRowsError(VireoError):
    """Files have bad rows; the message lists the first of them."""


@dataclass(frozen=True, order=True)
class Problem:
    """One problem of one row."""

    file: str
    row: int
    """Row number: in a CSV file the header is row 1; in a Parquet file the first row is."""
    column: str
    what: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}, row {self.row}"
        if self.column:
            place += f", column {self.column}"
        return f"{place}: {self.what}; {self.remedy}"


class Problems:
    """Counts all problems and keeps the first SHOWN."""

    def __init__(self) -> None:
        self.total = 0
        self._kept: list[Problem] = []

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
            problem = Problem(file, int(rows[position]), column, what(position), remedy)
            self._kept.append(problem)
        self._kept = sorted(self._kept)[:SHOWN]

    def error(self) -> BadRowsError:
        """Return the error that lists the first problems."""
        more = self.total - len(self._kept)
        lines = [
            f"{self.total} bad {'value' if self.total == 1 else 'values'}, nothing was imported; "
            "fix the files or pass --skip-bad-rows to drop such rows",
            *(f"  {problem}" for problem in self._kept),
            *([f"  and {more} more"] if more else []),
        ]
        return BadRowsError("\n".join(lines))
