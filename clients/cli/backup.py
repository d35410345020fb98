"""`vireo backup` and `vireo restore`: what can't be made again, in a bucket of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clients.cli.output import only_warnings
from clients.cli.release.access import open_store
from server.errors import VireoError
from server.home import Home

if TYPE_CHECKING:
    from clients.backup.archive import Archive
    from server.event_log.settings import EventLogSettings
    from server.releases.store import ReleaseStore


def backup(
    keep: Annotated[
        int, typer.Option(min=1, help="Remove all backups but the last ones, this many.")
    ] = 14,
) -> None:
    """Store what can't be made again in the bucket of VIREO_BACKUP_S3_…, while all serves.

    That is: the log of events, hides, channels and the releases that they name, the data sets of
    these, rules, page keys and certificates. What earlier backups have isn't stored again.
    """
    from clients.backup.take import take_backup

    with _opened() as (store, log, archive):
        manifest = take_backup(Home.current(), store, log, archive, typer.echo)
        removed = archive.prune(keep)
    size = sum(each.size for each in manifest.files.values())
    new = f"{archive.uploaded / 1e6:,.1f} MB of them new"
    typer.echo(f"backup {manifest.name}: {size / 1e6:,.1f} MB, {new}; {removed} old ones removed")


def restore(
    name: Annotated[str, typer.Argument(help="The backup; the last one if absent.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    existing: Annotated[
        Literal["refuse", "keep", "overwrite"],
        typer.Option(help="What to do if some of it is there already."),
    ] = "refuse",
) -> None:
    """Bring back what a backup has, and build the features; then start the stack.

    Whoever was erased since the backup stays erased. A restore that was interrupted goes on with
    --existing keep.
    """
    from clients.backup.restore import Restore

    with _opened() as (store, log, archive):
        manifest = archive.manifest(name) if name else archive.latest()
        if manifest is None:
            there = ", ".join(archive.names()) or "none"
            raise VireoError(
                f"bucket {archive.bucket.name} has no backup {name}; there are: {there}"
            )
        found = Restore(manifest, archive, Home.current(), store.bucket, log, existing)
        for line in found.plan():
            typer.echo(line)
        if not dry_run:
            found.run(typer.echo)
    typer.echo("nothing was changed" if dry_run else f"restored backup {manifest.name}")


@contextmanager
def _opened() -> Iterator[tuple[ReleaseStore, EventLogSettings, Archive]]:
    """Yield the store, the log and the backups, once all can be reached."""
    from clients.backup.archive import Archive
    from server.releases.s3 import BackupSettings
    from server.stack.nats import embedded_log
    from server.stack.settings import StackSettings

    only_warnings()
    settings = BackupSettings.load()
    with (
        TemporaryDirectory(prefix="vireo-backup-") as scratch,
        open_store() as store,
        embedded_log(StackSettings.load()) as log,
    ):
        yield store, log, Archive(settings, Path(scratch))
