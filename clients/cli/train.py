"""`vireo train`: train on a data set and stage a release to publish."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console


def train(
    data: Annotated[str, typer.Option(help="Name of the data set.")] = "ml-100k",
    profile: Annotated[
        str,
        typer.Option(
            help="Settings: demo (minutes), quality, large (a million videos), quick (seconds, "
            "to try things out), or a file NAME.toml. By the size of the data if absent."
        ),
    ] = "",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed; the profile's if absent.")
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            help="Continue on every watch after measuring the first fit on each viewer's held-out "
            "last watch. Otherwise the measured release, which has never seen those watches, is "
            "the one to publish."
        ),
    ] = True,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard the results of earlier runs.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Stage the release even if its towers are worse than the most watched videos.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Train both models and stage a release; after Ctrl-C, run it again to resume."""
    from server.home import Home
    from training.data.dataset import describe_dataset
    from training.memory import training_memory
    from training.profile import load_profile
    from training.sizing import choose_profile
    from training.train import train_all

    home, errors = Home.current(), Console(stderr=True, highlight=False)
    info = describe_dataset(home, data)
    if not profile:
        chosen = choose_profile(info)
        errors.print(chosen.described(refit), soft_wrap=True)
        profile = chosen.profile
    errors.print(f"{data}: {training_memory(info, load_profile(profile))}", soft_wrap=True)
    manifest = train_all(
        home, data, profile, seed=seed, refit=refit, fresh=fresh, force=force, console=errors
    )
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
        return
    console = Console(highlight=False)
    chain, ease = (manifest.metrics.get(f"{system}.ndcg_10") for system in ("chain", "ease"))
    if chain is not None:
        beside = f" (EASE {ease:.3f})" if ease is not None else ""
        console.print(f"NDCG@10 on the held-out watches: [bold]{chain:.3f}[/]{beside}")
        console.print(f"report:  {home.measuring.run(data) / 'report'}", soft_wrap=True)
    console.print(f"release: [bold]{manifest.release_id}[/], publish it with:")
    console.print(f"  vireo release publish --data {data}", soft_wrap=True)
