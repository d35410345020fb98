"""`vireo rules check`: checks a file of rules, and shows what it would change."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Annotated, Any

import typer

from vireo.ops.cli.options import JsonOption, MaxViewersOption, SomeDataOption, ViewersOption
from vireo.ops.cli.output import print_json
from vireo.ops.cli.recommend import PlayingOption, RegionOption
from vireo.ops.cli.recommend_all import chosen_viewers
from vireo.ops.edge import require_stack
from vireo.server.errors import VireoError
from vireo.server.gateway.rules import read_rules

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="TOML file of rules.")],
    against: Annotated[
        Path | None, typer.Option(help="Rules to compare with; none at all if absent.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Check the file alone, without a running stack.")
    ] = False,
    data: SomeDataOption = "",
    viewers: ViewersOption = None,
    max_viewers: MaxViewersOption = 200,
    region: RegionOption = "",
    playing: PlayingOption = "",
    pods: Annotated[
        str,
        typer.Option(
            metavar="CANDIDATE,RANKING", help="host:port of two pods; the stack's if absent."
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Check a file of rules; with a running stack, show what it would change.

    Slates of some viewers are made by the stack's pods with the rules and without, or with those of
    --against. Nothing that the stack serves changes.

    vireo rules check rules.toml --against rules.old.toml
    """
    asked, before = read_rules(file), read_rules(against) if against else None
    if offline:
        result: dict[str, Any] = {"file": str(file), "rules": len(asked)}
    else:
        targets = pods.split(",") if pods else _targets()
        if len(targets) != 2:
            raise typer.BadParameter("--pods must be CANDIDATE,RANKING")
        # Imported here, since a file alone is checked without the extra "gateway".
        from vireo.ops.cli.rules_preview import compare, release_at

        ids = chosen_viewers(data, viewers)
        chosen = random.Random(0).sample(ids, min(max_viewers, len(ids)))  # noqa: S311
        release = release_at(targets[0])
        found = asyncio.run(compare(asked, before, chosen, targets, release, region, playing))
        result = {"file": str(file), "rules": len(asked), **found}
    if as_json:
        print_json(result)
        return
    typer.echo(f"{file}: {len(asked)} rules, valid")
    if offline:
        return
    where = f"asking from region {region}" if region else "asking without a region"
    typer.echo(
        f"release {result['release']}, {result['viewers']} viewers {where}: slates of 10 keep "
        f"{result['overlap']:.0%} of the videos that they have now; {result['forbidden']:.1%} of "
        f"the release's videos are forbidden; {result['shortened']} slates get shorter; "
        f"{result['degraded']} are degraded"
    )
    for name, count in result["applied"].items():
        typer.echo(f"{name}: {count:.2g} videos a slate")


def _targets() -> list[str]:
    """Return host:port of a candidate and a ranking pod of the running stack."""
    state = require_stack("name its pods with --pods, or check the file alone with --offline")
    if state.secure:
        raise VireoError("pods of a secured stack ask for certificates; use --offline")
    ports = {each.name.partition("-")[0]: each.port for each in state.processes}
    return [f"127.0.0.1:{ports.get('slate') or ports[kind]}" for kind in ("candidate", "ranking")]
