"""`vireo release rollback`: undo the last promotion of a channel."""

from __future__ import annotations

import typer

from vireo.ops.cli.output import AsJson, print_json
from vireo.ops.cli.release.access import open_store
from vireo.ops.cli.release.options import Channel, Reason


def rollback(channel: Channel = "production", reason: Reason = "", as_json: AsJson = False) -> None:
    """Point a channel back at its last good release; pods still have it in their cache.

    This is the release before the current one, skipping releases that were themselves rolled
    back: two rollbacks undo two promotions. The gate isn't consulted.
    """
    from vireo.server.releases.rollback import roll_back

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
        print_json(document)
        return
    if done.gone:
        typer.echo(f"skipped, no longer in the store: {', '.join(done.gone)}")
    typer.echo(
        f"channel {channel} names {done.pointer.release_id} again instead of "
        f"{done.before.release_id}"
    )
