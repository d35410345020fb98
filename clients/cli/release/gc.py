"""`vireo release gc`: removes releases that nothing needs any more."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated

import typer

from clients.cli.release.access import open_store
from clients.cli.release.options import AsJson
from clients.cli.tables import print_table, table_of


def gc(
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove it; what would be removed is shown if absent.")
    ] = False,
    history: Annotated[
        int, typer.Option(min=0, help="Keep what so many last changes of a channel name.")
    ] = 5,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="Keep what was written within so many hours.")
    ] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Remove releases that no channel needs, and what uploads left that never ended.

    Kept is what a channel names or would roll back to, what its last changes name, and what
    was written recently. Nothing is removed without --yes.
    """
    from server.releases.garbage import collect, plan_collection

    with open_store() as store:
        plan = plan_collection(store, history, timedelta(hours=grace_hours))
        removed = [
            each.release_id for each in plan.garbage if yes and collect(store, each, history)
        ]
    size = sum(each.size for each in plan.garbage)
    if as_json:
        document = {
            "kept": dict(plan.kept),
            "garbage": [
                {"release_id": each.release_id, "kind": each.kind, "size": each.size}
                for each in plan.garbage
            ],
            "removed": removed,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    table = table_of("release", "size", "", numbers={"size"}, texts={""})
    for release_id, why in plan.kept.items():
        table.add_row(release_id, "", f"kept: {why}")
    for each in plan.garbage:
        done = "removed" if each.release_id in removed else "kept: needed or changed just now"
        what = "nothing needs it" if each.kind == "release" else "never finished, or half removed"
        table.add_row(
            each.release_id, f"{each.size / 1e6:,.1f} MB", done if yes else f"to remove: {what}"
        )
    print_table(table)
    if plan.garbage and not yes:
        typer.echo(f"{size / 1e6:,.1f} MB would be freed; do it with: vireo release gc --yes")
