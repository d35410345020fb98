"""Options that commands share, and output: tables whose names are never truncated, and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
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


Progressed = Callable[[int, int | None], None]
"""Called with how much is done and how much there is; the latter is None if it is as before."""


@contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[Progressed]:
    """Show on standard error how much is done until the block ends, by what is called with it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(what, total=total)

        def show(done: int, of: int | None = None) -> None:
            bars.update(task, completed=done, total=of)

        yield show


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
TargetOption = Annotated[
    str, typer.Option(help="host:port of the edge; that of VIREO_HOME's stack if absent.")
]
CertificateOption = Annotated[
    Path | None,
    typer.Option(help="Client certificate for mutual TLS with the control plane, PEM."),
]
KeyOption = Annotated[Path | None, typer.Option(help="Key of the certificate, PEM.")]
CaOption = Annotated[
    Path | None,
    typer.Option(
        envvar="VIREO_CA",
        help="CA of the edge's certificate, PEM; the connection then uses TLS.",
    ),
]
TokenOption = Annotated[
    str,
    typer.Option(
        envvar="VIREO_TOKEN",
        show_envvar=True,
        help="Bearer token. Prefer the variable: other users can see a command's options.",
    ),
]


def only_warnings() -> None:
    """Log warnings and errors alone, on standard error: standard output is the command's."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger("warning"),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )


def print_json(document: Any) -> None:
    """Print a document, indented."""
    typer.echo(json.dumps(document, indent=2))


def words(enum: Any, number: int) -> str:
    """Return a value of the API in words: "two tower" for SOURCE_TWO_TOWER.

    Gateways of a later build may send values that are unknown here.
    """
    names: dict[int, str] = {each: name for name, each in enum.items()}
    prefix = names[0].removesuffix("UNSPECIFIED")
    return (
        names.get(number, f"unknown kind {number}").removeprefix(prefix).lower().replace("_", " ")
    )


def printable(text: str) -> str:
    """Return one line without characters that a terminal would obey instead of showing them."""
    return "".join(
        each if each.isprintable() else " " if each.isspace() else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )
