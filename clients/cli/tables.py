"""Tables for people: no name is cut or wrapped, however narrow the terminal is."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console
from rich.table import Table

_UNBOUNDED = 10_000
"""Columns of a terminal that is wider than any table."""


def table_of(
    *titles: str,
    numbers: Collection[str] = (),
    texts: Collection[str] = (),
    title: str | None = None,
    tight: bool = False,
) -> Table:
    """Return a table without lines, which take room that 80 columns don't have.

    Args:
        titles: of the columns.
        numbers: those of them that are aligned to the right.
        texts: those that hold sentences, and may go on in the next line.
        title: of the table.
        tight: whether one space is between columns instead of two.
    """
    table = Table(
        title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=tight
    )
    for name in titles:
        justify = "right" if name in numbers else "left"
        table.add_column(name, justify=justify, no_wrap=name not in texts)  # type: ignore[arg-type]
    return table


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table; its lines go past the edge of a terminal that is too narrow for its names."""
    console = console or Console(highlight=False)
    whole = console.options.update(max_width=_UNBOUNDED)
    for column in table.columns:
        if column.no_wrap:
            cells = (column.header, *column.cells)
            column.min_width = max(console.measure(cell, options=whole).maximum for cell in cells)
    narrowest = console.measure(table, options=whole).minimum
    console.print(table, width=max(console.width, narrowest), crop=False)
