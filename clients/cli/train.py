"""`vireo train`: from a data set to a release that is ready to publish."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console


class HoldoutChoice(StrEnum):
    """What is kept from training."""

    LAST = "last"
    NONE = "none"


def train(
    data: Annotated[str, typer.Option(help="Name of the data set.")] = "ml-100k",
    profile: Annotated[
        str,
        typer.Option(
            help="Settings: demo (minutes), quick (seconds), quality, or bench (a million videos)."
        ),
    ] = "demo",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of all that is random; the profile's if absent.")
    ] = None,
    holdout: Annotated[
        HoldoutChoice | None,
        typer.Option(
            help="last: keep each viewer's last watch to test on. none: train on all of them. "
            "As the features were built if absent, else last."
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget earlier runs' results.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Train both models and stage a release; Ctrl-C and run again to go on from there."""
    from server.home import Home
    from training.train import train_all

    home = Home.current()
    manifest = train_all(
        home,
        data,
        profile,
        seed=seed,
        holdout=None if holdout is None else holdout.value,
        fresh=fresh,
        console=Console(stderr=True, highlight=False),
    )
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
        return
    console = Console(highlight=False)
    chain, ease = (manifest.metrics.get(f"{system}.ndcg_10") for system in ("chain", "ease"))
    if chain is not None:
        beside = f" (EASE {ease:.3f})" if ease is not None else ""
        console.print(f"NDCG@10 on the held-out watches: [bold]{chain:.3f}[/]{beside}")
        console.print(f"report:  {home.run(data) / 'report'}", soft_wrap=True)
    console.print(f"release: [bold]{manifest.release_id}[/], publish it with:")
    console.print(f"  vireo release publish --data {data}", soft_wrap=True)
