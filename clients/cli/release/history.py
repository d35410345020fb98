"""`vireo release history`: who changed a channel, when, to what and why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clients.cli.release.access import open_store
from clients.cli.release.options import AsJson

if TYPE_CHECKING:
    from server.releases.channels import ChannelPointer


def history(
    channel: Annotated[
        str, typer.Option(envvar="VIREO_CHANNEL", help="Which channel.")
    ] = "production",
    last: Annotated[int, typer.Option(min=1, help="How many changes to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the changes of a channel, newest first: who, when, from, to and why."""
    with open_store() as store:
        records = tuple(reversed(store.history(channel, last)))
    if as_json:
        typer.echo(json.dumps([record.model_dump(mode="json") for record in records], indent=2))
        return
    if not records:
        typer.echo(f"channel {channel} was never set")
        return
    table = Table("", "when", "who", "what", "from", "to", "why")
    for record in records:
        table.add_row(
            str(record.revision),
            f"{record.updated_at:%Y-%m-%d %H:%M:%S}",
            Text(record.updated_by),
            _what(record),
            record.previous or "",
            record.release_id,
            Text("; ".join(filter(None, (record.reason, *record.findings)))),
        )
    Console().print(table)


def _what(record: ChannelPointer) -> str:
    action = f"{record.action}, forced" if record.forced else record.action
    return f"{action} {record.share:.1%}" if record.share else action
