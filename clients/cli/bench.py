"""`vireo bench`: measurements that take long, side by side in one run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from server.errors import VireoError
from server.home import Home

app = typer.Typer(no_args_is_help=True)


@app.command()
def swap(
    data: Annotated[str, typer.Option(help="Data set whose newest release to swap.")] = "ml-100k",
    swaps: Annotated[int, typer.Option(min=2, help="How often to promote back and forth.")] = 20,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 60.0,
    quiet_seconds: Annotated[
        float, typer.Option(min=1, help="Load without a swap, to compare with.")
    ] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Promote two releases back and forth under load; exit with 1 if an answer was lost or mixed.

    Runs a stack of its own on free ports: a running one is left alone.
    """
    from bench.swap import SwapPlan, measure_swaps

    console = Console(stderr=True, highlight=False)
    plan = SwapPlan(swaps=swaps, rate=rate, quiet_seconds=quiet_seconds)
    result = measure_swaps(Home.current(), data, plan, console)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        table = Table("measure", "figure")
        for name, value in asdict(result).items():
            shown = f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
            table.add_row(name.replace("_", " "), shown)
        Console().print(table)
    mixed = result.mixed_declared + result.mixed_undeclared
    if result.failed or mixed:
        raise VireoError(
            f"{result.failed} requests failed and {mixed} answers were mixed, "
            f"{result.mixed_undeclared} of them without saying so"
        )
