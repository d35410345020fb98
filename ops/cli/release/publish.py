"""`vireo release publish`: upload a trained release and promote it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from vireo.ops.cli.release.access import open_store
from vireo.ops.cli.release.options import MAX_VIEWERS, Channel, Force, Reason, Share, Viewers
from vireo.ops.cli.release.promote import PromotionRequest, promote_through_gate
from vireo.server.errors import VireoError
from vireo.server.home import Home


def publish(
    data: Annotated[
        str, typer.Option(help="Data set whose newest run to publish; if absent, the only one.")
    ] = "",
    channel: Channel = "production",
    promote: Annotated[
        bool, typer.Option(help="Also point the channel at it, so that pods serve it.")
    ] = True,
    share: Share = None,
    force: Force = False,
    reason: Reason = "",
    viewers: Viewers = MAX_VIEWERS,
) -> None:
    """Upload the release of the newest training run, and promote it if the gate agrees.

    The gate is that of `vireo release promote`; a refused release stays published. With
    --no-promote the release is uploaded and no channel changes.
    """
    from vireo.server.releases.manifest import Manifest

    request = PromotionRequest(channel, share, force, reason, viewers)
    home = Home.current()
    folder = home.trained_release(data or _only_run(home))
    size = sum(entry.size for entry in Manifest.read(folder).files.values())
    with open_store(needed_bytes=size) as store:
        bar = Progress(TextColumn("uploading"), BarColumn(), DownloadColumn())
        with bar:
            task = bar.add_task("upload", total=size)
            manifest = store.publish(folder, lambda count: bar.advance(task, count))
        typer.echo(f"published release {manifest.release_id} of data set {manifest.dataset}")
        if promote:
            promote_through_gate(store, manifest.release_id, request)
        else:
            typer.echo(f"serve it with: vireo release promote {manifest.release_id}")


def _only_run(home: Home) -> str:
    """Return the only data set that has a training run."""
    runs = sorted(path.parent.name for path in (home.root / "runs").glob("*/release"))
    if not runs:
        raise VireoError("there is no trained release yet; make one with: vireo train")
    if len(runs) > 1:
        raise VireoError(f"name the data set with --data; there are runs of {', '.join(runs)}")
    return runs[0]
