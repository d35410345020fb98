"""`vireo release rollback`: takes the last promotion of a channel back."""

from __future__ import annotations

import json

import typer

from clients.cli.release.access import open_store
from clients.cli.release.options import AsJson, Channel, Reason


def rollback(channel: Channel = "production", reason: Reason = "", as_json: AsJson = False) -> None:
    """Point a channel back at its last good release; pods still have it in their cache.

    That is the release before the current one, those passed over that were rolled back from
    themselves: two rollbacks go back two promotions. No gate is asked.
    """
    from server.releases.rollback import roll_back

    with open_store() as store:
        done = roll_back(store, channel, reason)
    if as_json:
        document = {
            "channel": channel,
            "release_id": done.pointer.release_id,
            "previous": done.before.release_id,
            "revision": done.pointer.revision,
            "share": done.pointer.share,
            "gone": list(done.gone),
        }
        typer.echo(json.dumps(document, indent=2))
        return
    if done.gone:
        typer.echo(f"passed over, no longer in the store: {', '.join(done.gone)}")
    typer.echo(
        f"channel {channel} names {done.pointer.release_id} again instead of "
        f"{done.before.release_id}"
    )
