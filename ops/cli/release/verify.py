"""`vireo release verify`: check that stored releases are intact and load."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from vireo.ops.cli.output import AsJson, print_json
from vireo.ops.cli.release.access import open_store
from vireo.server.home import Home

if TYPE_CHECKING:
    from vireo.ops.cli.release.verification import Verification
    from vireo.server.releases.store import ReleaseStore


def verify(
    release_id: Annotated[
        str, typer.Argument(help="Id of a release; if absent, all that channels name.")
    ] = "",
    channel: Annotated[
        str, typer.Option(help="Verify the release of this channel.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Check a release as pods would: every digest in the store, then a load with golden replay.

    Prints every problem, and exits with 1 if there is one. Without a release, the releases that
    channels name are verified, and that they exist.

    Small golden differences on another processor architecture than the release was built on are
    reported, but don't fail the release.
    """
    from vireo.ops.cli.release.verification import named_releases

    with open_store() as store:
        problems: tuple[str, ...] = ()
        releases: tuple[str, ...] = (release_id,)
        if not release_id:
            problems, releases = named_releases(store, channel)
        found = [_verified(store, each, quiet=as_json) for each in releases]
    failed = bool(problems) or any(each.problems for each in found)
    if as_json:
        document = {
            "ok": not failed,
            "channels": list(problems),
            "releases": [asdict(each) for each in found],
        }
        print_json(document)
    else:
        _print(problems, found)
    if failed:
        raise typer.Exit(1)


def _verified(store: ReleaseStore, release_id: str, *, quiet: bool) -> Verification:
    from vireo.ops.cli.release.verification import verify_release

    # In VIREO_HOME: a release may be larger than the system's temporary folder.
    root = Home.current().root
    root.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, quiet=quiet)
    with (
        console.status(f"reading {release_id}"),
        tempfile.TemporaryDirectory(prefix=".verify-", dir=root) as scratch,
    ):
        return verify_release(store, release_id, Path(scratch))


def _print(problems: tuple[str, ...], found: list[Verification]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for problem in problems:
        console.print(f"[bold red]wrong[/]  {escape(problem)}")
    for each in found:
        for problem in each.problems:
            console.print(f"[bold red]wrong[/]  {escape(f'{each.release_id}: {problem}')}")
        for note in each.notes:
            console.print(f"[yellow]note[/]   {escape(f'{each.release_id}: {note}')}")
        if not each.problems:
            console.print(
                f"[green]sound[/]  {each.release_id}: {each.files} files, "
                f"{each.size / 1e6:,.1f} MB, loads as every kind of pod"
            )
    if not found and not problems:
        console.print("no channel names a release")
