"""`vireo release`: publishes releases and says which one each channel serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from server.errors import VireoError
from server.home import Home

if TYPE_CHECKING:
    from server.releases.manifest import Manifest
    from server.releases.store import ReleaseStore

app = typer.Typer(no_args_is_help=True)

Channel = Annotated[str, typer.Option(envvar="VIREO_CHANNEL", help="The channel to move.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ReleaseId = Annotated[str, typer.Argument(help="Id of a published release.")]


@app.command()
def publish(
    data: Annotated[
        str, typer.Option(help="Data set whose newest run to publish; the only one if absent.")
    ] = "",
    channel: Channel = "production",
    promote: Annotated[
        bool, typer.Option(help="Also point the channel at it, so that it is served.")
    ] = True,
) -> None:
    """Upload the release of the newest training run, and have it served."""
    from server.releases.manifest import Manifest

    home = Home.current()
    folder = home.staged_release(data or _only_run(home))
    if not folder.exists():
        raise VireoError(f"{folder} is missing; make a release with: vireo train --data {data}")
    size = sum(entry.size for entry in Manifest.read(folder).files.values())
    with _store(needed_bytes=size) as store:
        bar = Progress(TextColumn("uploading"), BarColumn(), DownloadColumn())
        with bar:
            task = bar.add_task("upload", total=size)
            manifest = store.publish(folder, lambda count: bar.advance(task, count))
        typer.echo(f"published release {manifest.release_id} of data set {manifest.dataset}")
        if promote:
            _promote(store, manifest.release_id, channel)
        else:
            typer.echo(f"serve it with: vireo release promote {manifest.release_id}")


@app.command()
def promote(release_id: ReleaseId, channel: Channel = "production") -> None:
    """Point a channel at a published release; pods load it within seconds."""
    with _store() as store:
        _promote(store, release_id, channel)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List published releases, newest first."""
    with _store() as store:
        manifests = store.list()
        channels = {name: channel.release_id for name, channel in store.channels().items()}
    named = {
        manifest.release_id: sorted(
            name for name, release_id in channels.items() if release_id == manifest.release_id
        )
        for manifest in manifests
    }
    if as_json:
        import json

        releases = [
            {
                **manifest.model_dump(
                    mode="json",
                    include={"release_id", "created_at", "dataset", "holdout", "metrics"},
                ),
                "channels": named[manifest.release_id],
            }
            for manifest in manifests
        ]
        typer.echo(json.dumps(releases, indent=2))
        return
    if not manifests:
        typer.echo("no releases yet; publish one with: vireo release publish")
        return
    table = Table("release", "channels", "data set", "created", "size")
    for manifest in manifests:
        table.add_row(
            manifest.release_id,
            ", ".join(named[manifest.release_id]),
            manifest.dataset,
            f"{manifest.created_at:%Y-%m-%d %H:%M}",
            _megabytes(manifest),
        )
    Console().print(table)


@app.command()
def show(release_id: ReleaseId, as_json: AsJson = False) -> None:
    """Show what a release consists of, and its metrics."""
    with _store() as store:
        manifest = store.manifest(release_id)
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in {
        "release": manifest.release_id,
        "created": f"{manifest.created_at:%Y-%m-%d %H:%M:%S %Z}",
        "data set": f"{manifest.dataset} ({manifest.data_fingerprint[:12]})",
        "held out": "each viewer's last watch" if manifest.holdout == "last" else "nothing",
        "code": manifest.code_commit[:12],
        "files": f"{len(manifest.files)}, {_megabytes(manifest)}",
        **{name: f"{value:.4f}" for name, value in manifest.metrics.items()},
    }.items():
        table.add_row(name, value)
    Console().print(table)


def _promote(store: ReleaseStore, release_id: str, channel: str) -> None:
    before = store.read_channel(channel)
    if before is not None and before.release_id == release_id:
        typer.echo(f"channel {channel} names {release_id} already")
        return
    store.set_channel(channel, release_id, before)
    instead = f" instead of {before.release_id}" if before else ""
    typer.echo(f"channel {channel} now names {release_id}{instead}")


@contextmanager
def _store(needed_bytes: int = 0) -> Iterator[ReleaseStore]:
    """The release store: that of the settings, of the running stack, or started for this."""
    from server.releases.s3 import S3Settings
    from server.releases.store import ReleaseStore
    from server.stack.s3 import embedded_s3, external_endpoint
    from server.stack.settings import StackSettings

    if external_endpoint() is not None:
        yield ReleaseStore(S3Settings.load())
        return
    settings = StackSettings.load()
    _check_space(settings.home, needed_bytes)
    with embedded_s3(settings) as server:
        yield ReleaseStore(server)


def _check_space(folder: Path, needed_bytes: int) -> None:
    """Raises VireoError unless the embedded S3 server can take so much more."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(folder)
    # The server takes nothing more once less than a hundredth of the disk is free.
    free = disk.free - disk.total // 100
    if free < needed_bytes:
        raise VireoError(
            f"too little disk for the S3 server in {folder}: the release takes "
            f"{needed_bytes / 1e6:,.0f} MB and {max(free, 0) / 1e6:,.0f} MB are left; free some "
            "space, or set VIREO_HOME to another disk"
        )


def _only_run(home: Home) -> str:
    """The one data set that has a training run."""
    runs = sorted(path.parent.name for path in (home.root / "runs").glob("*/release"))
    if not runs:
        raise VireoError("nothing has been trained yet; make a release with: vireo train")
    if len(runs) > 1:
        raise VireoError(f"name the data set with --data; there are runs of {', '.join(runs)}")
    return runs[0]


def _megabytes(manifest: Manifest) -> str:
    return f"{sum(entry.size for entry in manifest.files.values()) / 1e6:,.1f} MB"
