"""`vireo release diff`: the differences between two releases."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from vireo.ops.cli.output import AsJson, print_json
from vireo.ops.cli.release.access import declared_by, open_store
from vireo.ops.cli.tables import print_table, table_of

_SETTINGS = "data, code, schema, attributes, quotas, weights"


def diff(
    before: Annotated[str, typer.Argument(help="Id of the first release.")],
    after: Annotated[str, typer.Argument(help="Id of the second release.")],
    as_json: AsJson = False,
) -> None:
    """Show the differences between two releases: files, metrics and settings.

    The metrics are those recorded in training, each on its own data; `vireo release promote`
    measures both releases on the same data.
    """
    from vireo.server.releases.diff import diff_releases

    with open_store() as store:
        manifests = (store.manifest(before), store.manifest(after))
        attributes = (declared_by(store, manifests[0]), declared_by(store, manifests[1]))
    found = diff_releases(*manifests, attributes)
    if as_json:
        print_json(asdict(found))
        return
    console = Console(highlight=False)
    sides = ("before", "after")
    typer.echo(f"before: {before}\nafter:  {after}")
    settings = table_of("setting", *sides, texts=sides, title=_SETTINGS)
    for name, (old, new) in found.settings.items():
        settings.add_row(name, Text(str(old)), Text(str(new)))
    numbers = (*sides, "change")
    metrics = table_of("metric", *numbers, numbers=numbers, title="metrics")
    for name, pair in found.metrics.items():
        change = f"{pair[1] - pair[0]:+.4f}" if None not in pair else ""  # type: ignore[operator]
        metrics.add_row(name, *map(_figure, pair), change)
    same = f"files; {found.unchanged_files} are the same"
    files = table_of("file", "", *sides, numbers=sides, title=same)
    for file in found.files:
        files.add_row(file.path, file.kind, _bytes(file.before), _bytes(file.after))
    for table in (settings, metrics, files):
        if table.rows:
            print_table(table, console)
        else:
            console.print(f"{table.title}: no difference")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _bytes(size: int | None) -> str:
    return "" if size is None else f"{size:,}"
