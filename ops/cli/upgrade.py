"""`vireo upgrade`: whether this build reads what a deployment holds."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from vireo.ops.cli.output import AsJson, only_warnings, print_json, print_table, table_of
from vireo.server.errors import VireoError

if TYPE_CHECKING:
    from vireo.ops.cli.upgrade_check import Part
    from vireo.server.home import Home

app = typer.Typer(
    no_args_is_help=True,
    help="Check that this build reads what a deployment holds, before and after an upgrade.\n\n"
    "`check` reads releases, channels, features, the log and this home as the installed build "
    "does, and says what it can't read.",
)

_NOT_READ, _NOT_ASKED = 1, 2
"""Exit codes."""


@app.callback()
def _group() -> None:
    """Keep `check` a command of its own name."""


@app.command()
def check(as_json: AsJson = False) -> None:
    """Check what this deployment holds: home, S3, online stores and the log.

    Parts are found by the same settings as by every command: `VIREO_HOME`, `VIREO_S3_…` and
    `VIREO_NATS_URL`. Nothing is changed. Run it by the new build before an upgrade, and by the
    old one before a rollback.

    Exit code 0: this build reads everything. 1: it doesn't. 2: a part couldn't be asked.
    """
    only_warnings()
    parts = tuple(_parts())
    if as_json:
        print_json(_document(parts))
    else:
        _print(parts)
    if any(each.problem for part in parts for each in part.held):
        raise typer.Exit(_NOT_READ)
    if any(part.away for part in parts):
        raise typer.Exit(_NOT_ASKED)


def _parts() -> Iterator[Part]:
    from vireo.ops.cli.upgrade_check import home_files, online_stores
    from vireo.server.home import Home

    home = Home.current()
    yield home_files(home)
    yield _releases(home.s3)
    yield online_stores(home)
    if (log := _log(home)) is not None:
        yield log


def _releases(folder: Path) -> Part:
    """Return what S3 has; the embedded server is started for it if there is one."""
    from vireo.ops.cli.release.access import open_store
    from vireo.ops.cli.upgrade_check import Part, stored_releases
    from vireo.ops.stack.s3 import external_endpoint

    if external_endpoint() is None and not folder.exists():
        return Part("S3")
    try:
        with open_store() as store:
            return stored_releases(store)
    except VireoError as error:
        return Part("S3", away=str(error))


def _log(home: Home) -> Part | None:
    """Return what the log has; None if the settings and the home name none."""
    import asyncio

    from vireo.ops.cli.upgrade_check import Part, logged
    from vireo.ops.stack.nats import known_log
    from vireo.server.event_log.jetstream import opened_log

    if (named := known_log(home)) is None:
        return None

    async def ask() -> Part:
        async with opened_log(named, read_only=True) as event_log:
            return await logged(event_log, named.event_partitions)

    try:
        return asyncio.run(ask())
    except VireoError as error:
        return Part("log", away=str(error))


def _document(parts: tuple[Part, ...]) -> dict[str, object]:
    """Return what was found as JSON has it."""
    return {
        "build": f"vireo {version('vireo')}",
        "away": {part.name: part.away for part in parts if part.away},
        "held": [
            {
                "part": part.name,
                "where": each.where,
                "format": each.format,
                "problem": each.problem,
                "effect": each.effect,
            }
            for part in parts
            for each in part.held
        ],
    }


def _print(parts: tuple[Part, ...]) -> None:
    console = Console(highlight=False)
    table = table_of("part", "read", "not read", numbers=("read", "not read"))
    lines = []
    for part in parts:
        bad = [each for each in part.held if each.problem]
        counts = ("?", "") if part.away else (str(len(part.held) - len(bad)), str(len(bad)))
        table.add_row(part.name, *counts)
        if part.away:
            lines.append(f"{part.name}: can't be asked: {part.away}")
        for each in bad:
            lines.append(f"{each.where}: can't read this {each.format}: {each.problem}")
            lines += [f"  {each.effect}"] * bool(each.effect)
    if not any(each.problem for part in parts for each in part.held):
        lines.append(f"vireo {version('vireo')} reads all of it")
    print_table(table, console)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
