"""`vireo release verify`: check that stored releases are intact and load."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from vireo.ops.cli.output import AsJson, print_json
from vireo.ops.cli.release.access import open_store
from vireo.server.home import Home

if TYPE_CHECKING:
    from vireo.server.releases.store import ReleaseStore
    from vireo.server.releases.verify import Verification


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
    with open_store() as store:
        problems, releases = _which(store, release_id, channel)
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


def _which(store: ReleaseStore, release_id: str, channel: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the channels' problems, and the releases to verify."""
    from vireo.server.releases.verify import dangling_channels

    if release_id:
        return (), [release_id]
    problems = dangling_channels(store, [channel] if channel else [])
    published = {each.release_id for each in store.list()}
    named = {
        each.release_id
        for name, each in store.channels.all().items()
        if channel in ("", name) and each.release_id in published
    }
    return problems, sorted(named)


def _verified(store: ReleaseStore, release_id: str, *, quiet: bool) -> Verification:
    from vireo.ops.cli.release.pod_checks import pod_checks
    from vireo.server.releases.verify import verify_release

    # In VIREO_HOME: a release may be larger than the system's temporary folder.
    root = Home.current().root
    root.mkdir(parents=True, exist_ok=True)
    bar = Progress(
        TextColumn(f"reading {release_id}"),
        BarColumn(),
        DownloadColumn(),
        console=Console(stderr=True, quiet=quiet),
        transient=True,
    )
    with bar, tempfile.TemporaryDirectory(prefix=".verify-", dir=root) as scratch:
        task = bar.add_task("read", total=None)
        return verify_release(
            store,
            release_id,
            pod_checks(),
            Path(scratch),
            lambda count: bar.advance(task, count),
        )


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
