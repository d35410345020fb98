"""`vireo release gc`: remove releases that nothing needs any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from vireo.ops.cli.output import AsJson, print_json, print_table, table_of
from vireo.ops.cli.release.access import open_store

if TYPE_CHECKING:
    from vireo.server.releases.garbage import Plan

_PLANNED = {
    "release": "to remove: nothing needs it",
    "leftover": "to remove: incomplete upload or removal",
}


def gc(
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove the releases; without it, only show them.")
    ] = False,
    history: Annotated[
        int, typer.Option(min=0, help="Keep the releases of this many last changes per channel.")
    ] = 5,
    grace_hours: Annotated[
        float, typer.Option(min=0, help="Keep releases written within this many hours.")
    ] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Remove releases that no channel needs, and leftovers of incomplete uploads.

    Releases are kept if a channel names them or would roll back to them, if its last changes
    name them, or if they were written recently. Nothing is removed without --yes.
    """
    from vireo.server.releases.bucket import StoreError
    from vireo.server.releases.garbage import collect, plan_collection

    removed: list[str] = []
    failed: dict[str, str] = {}
    with open_store() as store:
        plan = plan_collection(store, history, timedelta(hours=grace_hours))
        for each in plan.garbage if yes else ():
            try:
                if collect(store, each, history):
                    removed.append(each.release_id)
            except StoreError as error:  # reported below; the others are still removed
                failed[each.release_id] = str(error)
    _print_report(plan, removed, failed, yes=yes, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _print_report(
    plan: Plan, removed: Sequence[str], failed: Mapping[str, str], *, yes: bool, as_json: bool
) -> None:
    """Print what was, or would be, done with each release."""
    if as_json:
        document = {
            "kept": dict(plan.kept),
            "garbage": [
                {"release_id": each.release_id, "kind": each.kind, "size": each.size}
                for each in plan.garbage
            ],
            "removed": removed,
            "failed": failed,
        }
        print_json(document)
        return
    table = table_of("release", "size", "", numbers={"size"}, texts={""})
    for release_id, why in plan.kept.items():
        table.add_row(release_id, "", f"kept: {why}")
    for each in plan.garbage:
        if not yes:
            done = _PLANNED[each.kind]
        elif each.release_id in failed:
            done = f"failed: {failed[each.release_id]}"
        elif each.release_id in removed:
            done = "removed"
        else:
            done = "kept: needed or changed just now"
        table.add_row(each.release_id, f"{each.size / 1e6:,.1f} MB", done)
    print_table(table)
    size = sum(each.size for each in plan.garbage)
    if plan.garbage and not yes:
        typer.echo(f"{size / 1e6:,.1f} MB would be freed; do it with the same options and --yes")
