"""Output of commands: tables whose names are never truncated, progress, and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

import structlog
import typer
from pydantic import RootModel
from pydantic.alias_generators import to_camel
from pydantic_core import to_jsonable_python
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


def only_warnings() -> None:
    """Log only warnings and errors, to standard error: standard output has the results."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger("warning"),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        )


def document_of(value: Any) -> Any:
    """Return a value as JSON has it: its fields in lowerCamelCase, as REST's are.

    Keys of mappings that aren't fields, such as names of metrics, stay as they are.
    """
    return _spelled(value, to_jsonable_python(value))


def _spelled(value: Any, document: Any) -> Any:
    if isinstance(value, RootModel):
        value = value.root
    if isinstance(document, list):
        return [_spelled(*pair) for pair in zip(value, document, strict=True)]
    if not isinstance(document, dict):
        return document
    if isinstance(value, Mapping):
        inner = zip(document.items(), value.values(), strict=True)
        return {name: _spelled(one, each) for (name, each), one in inner}
    return {to_camel(name): _spelled(getattr(value, name), each) for name, each in document.items()}


def print_json(document: Any) -> None:
    """Print a result, indented; see `document_of`."""
    typer.echo(json.dumps(document_of(document), indent=2))


def print_result(document: Any, text: str, as_json: bool) -> None:
    """Print a result, in words or for programs; see `document_of`."""
    if as_json:
        print_json(document)
    else:
        typer.echo(text)


@contextmanager
def remarks_if(as_json: bool) -> Iterator[None]:
    """Have what a block prints on standard error if the result is to be JSON."""
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield


def remark(text: str) -> None:
    """Print what isn't the result, on standard error."""
    typer.echo(text, err=True)


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
