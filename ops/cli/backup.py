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
from vireo.ops.cli.options import DryRunOption, JsonOption, ReplaceOption, YesOption, confirm
from vireo.ops.cli.output import print_result, remark, remarks_if
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
    as_json: JsonOption = False,
) -> None:
    """Store what can't be made again in the bucket of VIREO_BACKUP_S3_…, while all serves.

    That is: the log of events, hides, channels and the releases that they name, the data sets of
    these, rules and certificates. Files that earlier backups have aren't stored again.

    vireo backup --keep 30
    """
    with _opened() as (store, log, archive):
        manifest = take_backup(Home.current(), store, log, archive)
        removed = archive.prune(keep)
    size = sum(each.size for each in manifest.files.values())
    text = f"backup {manifest.name}: {size / 1e6:,.1f} MB; {removed} old ones removed"
    print_result({"backup": manifest.name, "bytes": size, "removed": removed}, text, as_json)


def restore(
    name: Annotated[
        str, typer.Argument(metavar="BACKUP", help="The backup; the last one if absent.")
    ] = "",
    replace: ReplaceOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring back what a backup has, and build the features; then start the stack.

    Whoever was erased since the backup stays erased. A restore that was interrupted is repeated
    with --replace.

    vireo restore --dry-run
    """
    home = Home.current()
    if not dry_run and (pid := holder(stack_lock(home))) is not None:
        raise VireoError(
            f"a stack runs on {home.root} (process {pid}); end it first, with: vireo down"
        )
    with _opened() as (store, log, archive):
        found = Restore(archive.manifest(name), archive, home, store.bucket, log)
        plan = [*found.plan()]
        for line in plan:
            (remark if as_json else typer.echo)(line)
        if not dry_run:
            if found.there and not replace:
                raise VireoError(
                    f"{len(found.there)} of its files are there already, such as "
                    f"{min(found.there)}; to replace them, or to repeat a restore that was "
                    "interrupted: --replace"
                )
            if found.there:
                confirm(f"replace {len(found.there)} files that are there?", yes=yes)
            with remarks_if(as_json):
                found.run(erase_again)
    document = {"backup": found.manifest.name, "plan": plan, "restored": not dry_run}
    what = "nothing was changed" if dry_run else f"restored backup {found.manifest.name}"
    print_result(document, what, as_json)


@contextmanager
def _opened() -> Iterator[tuple[ReleaseStore, EventLogSettings, Archive]]:
    """Yield the store, the log and the backups, once all can be reached."""
    settings = BackupSettings.load()
    with (
        TemporaryDirectory(prefix="vireo-backup-") as scratch,
        open_store() as store,
        embedded_log(StackSettings.load()) as log,
    ):
        yield store, log, Archive(settings, Path(scratch))
