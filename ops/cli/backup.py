"""`vireo backup` and `vireo restore`: what can't be made again, in a bucket of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from vireo.ops.backup.archive import Archive
from vireo.ops.backup.content import Restore, take_backup
from vireo.ops.cli.output import only_warnings
from vireo.ops.cli.viewers import erase_again
from vireo.ops.stack.nats import embedded_log
from vireo.ops.stack.s3 import open_store
from vireo.ops.stack.settings import StackSettings
from vireo.ops.stack.state import stack_lock
from vireo.server.errors import VireoError
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.file_lock import holder
from vireo.server.home import Home
from vireo.server.releases.s3 import BackupSettings
from vireo.server.releases.store import ReleaseStore


def backup(
    keep: Annotated[
        int, typer.Option(min=1, help="Remove all backups but the last ones, this many.")
    ] = 14,
) -> None:
    """Store what can't be made again in the bucket of VIREO_BACKUP_S3_…, while all serves.

    That is: the log of events, hides, channels and the releases that they name, the data sets of
    these, rules and certificates. Files that earlier backups have aren't stored again.
    """
    with _opened() as (store, log, archive):
        manifest = take_backup(Home.current(), store, log, archive)
        removed = archive.prune(keep)
    size = sum(each.size for each in manifest.files.values())
    typer.echo(f"backup {manifest.name}: {size / 1e6:,.1f} MB; {removed} old ones removed")


def restore(
    name: Annotated[str, typer.Argument(help="The backup; the last one if absent.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there already.")
    ] = False,
) -> None:
    """Bring back what a backup has, and build the features; then start the stack.

    Whoever was erased since the backup stays erased. A restore that was interrupted is repeated
    with --overwrite.
    """
    home = Home.current()
    if not dry_run and (pid := holder(stack_lock(home))) is not None:
        raise VireoError(
            f"a stack runs on {home.root} (process {pid}); end it first, with Ctrl-C or: kill {pid}"
        )
    with _opened() as (store, log, archive):
        found = Restore(archive.manifest(name), archive, home, store.bucket, log)
        for line in found.plan():
            typer.echo(line)
        if dry_run:
            typer.echo("nothing was changed")
            return
        if found.there and not overwrite:
            raise VireoError(
                f"{len(found.there)} of its files are there already, such as {min(found.there)}; "
                "to replace them, or to repeat a restore that was interrupted: --overwrite"
            )
        found.run(erase_again)
    typer.echo(f"restored backup {found.manifest.name}")


@contextmanager
def _opened() -> Iterator[tuple[ReleaseStore, EventLogSettings, Archive]]:
    """Yield the store, the log and the backups, once all can be reached."""
    only_warnings()
    settings = BackupSettings.load()
    with (
        TemporaryDirectory(prefix="vireo-backup-") as scratch,
        open_store() as store,
        embedded_log(StackSettings.load()) as log,
    ):
        yield store, log, Archive(settings, Path(scratch))
