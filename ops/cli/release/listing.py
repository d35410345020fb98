"""`vireo release list`, `show` and `history`: what the store and its channels hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.output import AsJson, print_json, print_table, table_of
from vireo.ops.cli.release.access import declared_by, open_store
from vireo.ops.cli.release.promote import ReleaseId

if TYPE_CHECKING:
    from vireo.server.releases.channels import ChannelPointer
    from vireo.server.releases.manifest import Manifest
    from vireo.server.releases.store import ListedRelease

_SHOWN = {"release_id", "created_at", "dataset", "holdout", "metrics"}


def list_(as_json: AsJson = False) -> None:
    """List published releases, newest first, and the channels that name them."""
    with open_store() as store:
        releases = store.list()
        channels = {name: channel.release_id for name, channel in store.channels.all().items()}
    named = {
        each.release_id: sorted(
            name for name, release_id in channels.items() if release_id == each.release_id
        )
        for each in releases
    }
    if as_json:
        print_json([_as_json(each, named[each.release_id]) for each in releases])
        return
    if not releases:
        typer.echo("no releases yet; publish one with: vireo release publish")
        return
    print_releases(releases, named)


def print_releases(
    releases: Sequence[ListedRelease], channels: Mapping[str, Sequence[str]]
) -> None:
    """Print a line per release, followed by the reasons why this build can't serve some."""
    titles = ("release", "data set", "created", "size", "channels")
    table = table_of(*titles, numbers={"size"}, texts={"channels"})
    for each in releases:
        manifest = each.manifest
        table.add_row(
            each.release_id,
            manifest.dataset if manifest else Text("unfit", style="red"),
            f"{manifest.created_at:%Y-%m-%d %H:%M}" if manifest else "",
            megabytes(manifest) if manifest else "",
            ", ".join(channels[each.release_id]),
        )
    print_table(table)
    for each in releases:
        if each.problem:
            typer.echo(f"{each.release_id}: {each.problem}")


def _as_json(each: ListedRelease, channels: list[str]) -> dict[str, Any]:
    shown = each.manifest.model_dump(mode="json", include=_SHOWN) if each.manifest else {}
    return {
        "release_id": each.release_id,
        **shown,
        "channels": channels,
        "problem": each.problem,
    }


def show(release_id: ReleaseId, as_json: AsJson = False) -> None:
    """Show what a release consists of, and its metrics."""
    with open_store() as store:
        manifest = store.manifest(release_id)
        attributes = declared_by(store, manifest)
    if as_json:
        print_json(manifest.model_dump(mode="json") | {"attributes": asdict(attributes)})
        return
    names = f"{', '.join(attributes.labels)}; numbers: {', '.join(attributes.numbers)}"
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in {
        "release": manifest.release_id,
        "created": f"{manifest.created_at:%Y-%m-%d %H:%M:%S %Z}",
        "data set": f"{manifest.dataset} ({manifest.data_fingerprint[:12]})",
        "held out": "each viewer's last watch" if manifest.holdout == "last" else "nothing",
        "code": manifest.code_commit[:12],
        "goldens of": manifest.architecture or "an unknown processor",
        "attributes": names,
        "files": f"{len(manifest.files)}, {megabytes(manifest)}",
        **{name: f"{value:.4f}" for name, value in manifest.metrics.items()},
    }.items():
        table.add_row(name, value)
    Console().print(table)


def megabytes(manifest: Manifest) -> str:
    """Return the total size of a release's files."""
    return f"{sum(entry.size for entry in manifest.files.values()) / 1e6:,.1f} MB"


def history(
    channel: Annotated[
        str, typer.Option(envvar="VIREO_CHANNEL", help="Name of the channel.")
    ] = "production",
    last: Annotated[int, typer.Option(min=1, help="Number of changes to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the changes of a channel, newest first: who, when, from, to and why."""
    with open_store() as store:
        records = tuple(reversed(store.channels.history(channel, last)))
    if as_json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    if not records:
        typer.echo(f"channel {channel} was never set")
        return
    print_history(records)


def print_history(records: Sequence[ChannelPointer]) -> None:
    """Print two lines per change: time, release and action; who, previous release and reason."""
    for record in records:
        when = f"{record.updated_at:%Y-%m-%d %H:%M:%S}"
        typer.echo(f"{record.revision:4}  {when}  {record.release_id}  {_what(record)}")
        instead = f", instead of {record.previous}" if record.previous else ""
        why = "; ".join(filter(None, (record.reason, *record.findings)))
        typer.echo(f"      by {record.updated_by}{instead}{f': {why}' if why else ''}")


def _what(record: ChannelPointer) -> str:
    action = f"{record.action}, forced" if record.forced else record.action
    return f"{action} {record.share:.1%}" if record.share else action
