"""`vireo release history`: the changes of a channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from vireo.ops.cli.output import AsJson, print_json
from vireo.ops.cli.release.access import open_store

if TYPE_CHECKING:
    from vireo.server.releases.channels import ChannelPointer


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
