"""Tables for terminals: names are never truncated or wrapped, even on narrow terminals."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console
from rich.table import Table

_UNBOUNDED = 10_000
"""Terminal width above that of any table, in columns."""


def table_of(
    *titles: str,
    numbers: Collection[str] = (),
    texts: Collection[str] = (),
    title: str | None = None,
    tight: bool = False,
) -> Table:
    """Return a table without lines, so that it fits into 80 columns.

    Args:
        titles: titles of the columns.
        numbers: titles of the columns to align right.
        texts: titles of the columns that hold sentences and may wrap.
        title: title of the table.
        tight: whether to separate columns by one space instead of two.
    """
    table = Table(
        title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=tight
    )
    for name in titles:
        justify = "right" if name in numbers else "left"
        table.add_column(name, justify=justify, no_wrap=name not in texts)  # type: ignore[arg-type]
    return table


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table; its lines overflow a terminal that is too narrow for its names."""
    console = console or Console(highlight=False)
    whole = console.options.update(max_width=_UNBOUNDED)
    for column in table.columns:
        if column.no_wrap:
            cells = (column.header, *column.cells)
            column.min_width = max(console.measure(cell, options=whole).maximum for cell in cells)
    narrowest = console.measure(table, options=whole).minimum
    console.print(table, width=max(console.width, narrowest), crop=False)
