"""How much is measured, and rows of a result: a figure, its bound, and whether it holds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, TypeVar

import typer
from rich.console import Console

from vireo.ops.cli.output import print_table, table_of
from vireo.ops.stack.state import Layout
from vireo.server.errors import VireoError

Amount = TypeVar("Amount")


@dataclass(frozen=True)
class Plan:
    """How much of each measurement there is."""

    layout: Layout = "separate"
    """The stack's."""
    timed: bool = True
    """Whether it is all of each, and stated times are judged; else it is little, as for CI, since a
    busy machine has no times to judge."""

    def of(self, full: Amount, short: Amount) -> Amount:
        """Return how much there is of something."""
        return full if self.timed else short

    def judged(self, bound: float) -> float | None:
        """Return the bound of a time or rate; None if none are judged."""
        return self.of(bound, None)


@dataclass(frozen=True)
class Row:
    """One measure."""

    measure: str
    figure: float
    """The median over rounds, if there were several."""
    spread: tuple[float, float] | None = None
    """Minimum and maximum of the rounds."""
    bound: float | None = None
    """Maximum of the figure; None if there is no bound."""
    at_least: bool = False
    """Whether the bound is a minimum instead."""
    section: str = ""
    """The measurement that it belongs to: chain, tail, idle and so on."""

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None if there is none."""
        if self.bound is None:
            return None
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound

    def document(self) -> dict[str, Any]:
        """Return the row for programs."""
        return {**asdict(self), "holds": self.holds}


class Figures:
    """One figure of each measure for each round."""

    def __init__(self, console: Console) -> None:
        """Start without figures; progress is shown on `console`."""
        self._console = console
        self._values: dict[str, list[float]] = defaultdict(list)
        self._bounds: dict[str, tuple[float | None, bool]] = {}

    def rounds(self, count: int) -> Iterator[int]:
        """Yield 0 for a round that only warms up, and then the number of each that counts."""
        yield 0
        self._values.clear()
        for number in range(1, count + 1):
            yield number
            self._console.print(f"round {number} of {count} done")

    def add(
        self, measure: str, figure: float, bound: float | None = None, *, at_least: bool = False
    ) -> None:
        """Add a figure of this round; for `bound` and `at_least` see `Row`."""
        self._values[measure].append(figure)
        self._bounds[measure] = (bound, at_least)

    def rows(self) -> list[Row]:
        """Return a row for each measure: the median of the rounds, with their range."""
        return [
            Row(measure, median(each), (min(each), max(each)), *self._bounds[measure])
            for measure, each in self._values.items()
        ]


def attempted(console: Console, name: str, step: Callable[[], list[Row]]) -> list[Row]:
    """Return the rows of a step; one that doesn't hold, with the reason, if it fails."""
    console.print(f"measuring: {name}")
    try:
        return step()
    except (VireoError, TimeoutError, ExceptionGroup) as failed:
        reason: BaseException = failed
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        if not isinstance(reason, (VireoError, TimeoutError)):
            raise
        return [Row(f"{name}: {reason or 'took too long'}", 0, bound=1, at_least=True)]


def show(measured: Iterable[Row], as_json: bool) -> list[Row]:
    """Print rows, as a table or as JSON, and return them; a broken bound is no error."""
    rows = []
    for row in measured:
        rows.append(row)
        if as_json:  # at once: what comes later takes long, and may fail
            typer.echo(json.dumps(row.document()))
    if as_json:
        return rows
    numbers = ("figure", "minimum", "maximum", "bound")
    table = table_of("measure", *numbers, "holds", numbers=numbers, texts={"measure"})
    for row in rows:
        low, high = row.spread or (None, None)
        holds = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.holds]
        spread = ["" if each is None else f"{each:.2f}" for each in (low, high)]
        bound = "" if row.bound is None else f"{'≥' if row.at_least else '≤'} {row.bound}"
        table.add_row(row.measure, f"{row.figure:.3f}", *spread, bound, holds)
    print_table(table)
    return rows


def check_bounds(rows: Iterable[Row]) -> None:
    """Raise VireoError if a bound doesn't hold."""
    if broken := [row.measure for row in rows if row.holds is False]:
        raise VireoError(f"what is stated did not hold: {'; '.join(broken)}")
