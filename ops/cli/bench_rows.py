"""What commands of `vireo bench` share: their options, and rows of figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vireo.ops.cli.tables import print_table, table_of

if TYPE_CHECKING:
    from bench.speed.row import Row

DataOption = Annotated[str, typer.Option(help="Data set whose newest release to serve.")]
RowsAsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines, one per row.")]


def progress() -> Console:
    """Return where progress is shown, away from what programs read."""
    return Console(stderr=True, highlight=False)


def show(measured: Iterable[Row], as_json: bool) -> list[Row]:
    """Print rows, and return them; a bound that doesn't hold is no error."""
    rows = []
    for row in measured:
        rows.append(row)
        if as_json:  # at once: what comes later takes long, and may fail
            typer.echo(json.dumps(row.document()))
    if not as_json:
        print_rows(rows)
    return rows


def print_rows(rows: Sequence[Row]) -> None:
    """Print a table of figures with their spread and bound."""
    numbers = ("figure", "minimum", "maximum", "bound")
    table = table_of("measure", *numbers, "holds", numbers=numbers, texts={"measure"})
    for row in rows:
        low, high = row.spread or (None, None)
        holds = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.holds]
        spread = ["" if each is None else f"{each:.2f}" for each in (low, high)]
        table.add_row(row.measure, f"{row.figure:.3f}", *spread, row.bound_text, holds)
    print_table(table)
