"""`vireo upgrade`: whether builds read what a deployment holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from vireo.ops.cli.output import AsJson, only_warnings, print_json
from vireo.ops.cli.tables import print_table, table_of
from vireo.server.errors import VireoError

if TYPE_CHECKING:
    from vireo.ops.upgrades.formats import Build, Difference
    from vireo.ops.upgrades.held import Part, Verdict

app = typer.Typer(
    no_args_is_help=True,
    help="Check that builds read what a deployment holds, before and after an upgrade.\n\n"
    "`check` reads releases, channels, features, the log and this home as the installed build "
    "does, and says what it can't read, and what the build before it couldn't after a rollback.",
)

_NOT_READ, _NOT_ASKED = 1, 2
"""Exit codes."""

Against = Annotated[
    Path | None,
    typer.Option(
        "--against",
        metavar="FILE",
        help="Formats of the other build, by its `vireo upgrade formats --json`; the previous "
        "build's if not given.",
        exists=True,
        dir_okay=False,
    ),
]


@app.command()
def check(against: Against = None, as_json: AsJson = False) -> None:
    """Check what this deployment holds: home, S3, online stores and the log.

    Parts are found by the same settings as by every command: `VIREO_HOME`, `VIREO_S3_…` and
    `VIREO_NATS_URL`. Nothing is changed. Run it by the new build before an
    upgrade, and once more before a rollback.

    Exit code 0: this build and the other one read everything. 1: one of them doesn't. 2: a part
    couldn't be asked.
    """
    from vireo.ops.upgrades.formats import unreadable
    from vireo.ops.upgrades.held import verdicts
    from vireo.ops.upgrades.this_build import this_build

    only_warnings()
    this, other = this_build(), _other(against)
    parts = tuple(_parts())
    differences = {
        "upgrade": unreadable(other, this),
        "rollback": unreadable(this, other),
    }
    checked = _Checked(this, other, parts, verdicts(parts, this, other), differences)
    if as_json:
        _print_json(checked)
    else:
        _print(checked)
    if not checked.all_read:
        raise typer.Exit(_NOT_READ)
    if any(part.away for part in parts):
        raise typer.Exit(_NOT_ASKED)


@app.command()
def formats(as_json: AsJson = False) -> None:
    """Show the formats that this build writes and reads; with --json for `check --against`."""
    from vireo.ops.upgrades.this_build import this_build

    build = this_build()
    if as_json:
        print_json(build.model_dump(mode="json"))
        return
    table = table_of("format", "writes", "reads", "fields", "others", numbers=("fields",))
    for each in build.formats:
        reads = ", ".join(filter(None, each.reads))
        fields = str(len(each.fields)) if each.fields else ""
        table.add_row(each.name, each.version, reads, fields, each.unknown_fields)
    print_table(table)


def _other(against: Path | None) -> Build:
    from vireo.ops.upgrades.formats import Build
    from vireo.ops.upgrades.previous import PREVIOUS

    return Build.read(against or PREVIOUS)


def _parts() -> Iterator[Part]:
    from vireo.ops.upgrades.homes import home_files, online_stores
    from vireo.server.home import Home

    home = Home.current()
    yield home_files(home)
    yield _releases(home.s3)
    yield online_stores(home)
    if (log := _log()) is not None:
        yield log


def _releases(folder: Path) -> Part:
    """Return what S3 has; the embedded server is started for it if there is one."""
    from vireo.ops.cli.release.access import open_store
    from vireo.ops.stack.s3 import external_endpoint
    from vireo.ops.upgrades.held import Part
    from vireo.ops.upgrades.stored_releases import stored_releases

    if external_endpoint() is None and not folder.exists():
        return Part(name="S3")
    try:
        with open_store() as store:
            return stored_releases(store)
    except VireoError as error:
        return Part(name="S3", away=str(error))


def _log() -> Part | None:
    """Return what the log has; None if the settings and the home name none."""
    import asyncio

    from vireo.ops.stack.nats import known_log
    from vireo.ops.upgrades.held import Part
    from vireo.ops.upgrades.logged import logged
    from vireo.server.event_log.open import opened_log
    from vireo.server.home import Home

    if (named := known_log(Home.current())) is None:
        return None

    async def ask() -> Part:
        async with opened_log(named, read_only=True) as event_log:
            return await logged(event_log, named.event_partitions)

    try:
        return asyncio.run(ask())
    except VireoError as error:
        return Part(name="log", away=str(error))


@dataclass(frozen=True)
class _Checked:
    """What `check` found out."""

    this: Build
    other: Build
    parts: tuple[Part, ...]
    found: list[Verdict]
    differences: dict[str, list[Difference]]
    """By "upgrade" what this build can't read of the other's, by "rollback" the reverse."""

    @property
    def all_read(self) -> bool:
        """Whether both builds read everything that was found."""
        return not any(each.problem or each.other_problem for each in self.found)


def _print_json(checked: _Checked) -> None:
    document: dict[str, Any] = {
        "this": checked.this.build,
        "other": checked.other.build,
        "away": {part.name: part.away for part in checked.parts if part.away},
        "held": [each.model_dump(mode="json") for each in checked.found],
        "differences": {
            way: [each.model_dump(mode="json") for each in some]
            for way, some in checked.differences.items()
        },
    }
    print_json(document)


def _print(checked: _Checked) -> None:
    console = Console(highlight=False)
    this, other = checked.this.build, checked.other.build

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    table = table_of("part", "read", "not read", "not by the other", numbers=("read", "not read"))
    for part in checked.parts:
        own = [each for each in checked.found if each.part == part.name]
        bad = sum(bool(each.problem) for each in own)
        theirs = sum(bool(each.other_problem) for each in own)
        counts = ("?", "", "") if part.away else (str(len(own) - bad), str(bad), str(theirs))
        table.add_row(part.name, *counts)
    print_table(table, console)
    for part in checked.parts:
        if part.away:
            say(f"{part.name}: can't be asked: {part.away}")
    for each in checked.found:
        if each.problem:
            say(f"{each.where}: this build can't read this {each.format}: {each.problem}")
        if each.ignored:
            say(f"{each.where}: ignores {', '.join(each.ignored)}, which a newer build wrote")
        if each.other_problem:
            say(f"{each.where}: {other} can't read this {each.format}: {each.other_problem}")
        if each.effect:
            say(f"  {each.effect}")
    for way, some in checked.differences.items():
        for difference in some:
            which = "any" if difference.certain else "some"
            say(f"{way}: {which} {difference.format}: {difference.why}")
            say(f"  {difference.effect}")
    if checked.all_read:
        say(f"{this} reads all of it, and so does {other}")
