"""`vireo bench`: measurements that take long, side by side in one run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vireo.ops.cli import bench_promises
from vireo.ops.cli.bench_rows import DataOption, RowsAsJson, progress, show
from vireo.ops.cli.output import only_warnings
from vireo.ops.cli.tables import print_table, table_of
from vireo.server.errors import VireoError
from vireo.server.home import Home

if TYPE_CHECKING:
    from bench.speed.plan import SpeedPlan

_Small = Annotated[str, typer.Option(help="Data set with a small catalogue, to compare with.")]
_Rounds = Annotated[int, typer.Option(min=1, help="Rounds of interleaved measurements.")]
_MEASURES = {
    "chain": "Measure the whole chain, with and without Envoy, over a bare one.",
    "tail": "Measure tail latency at a sustained load.",
    "rank": "Measure a ranking pod over its model alone, and beside the peers of `bench-peers`.",
    "idle": "Measure the processor time of an idle stack.",
    "pods": "Measure pods' start time from a warm cache, and their memory.",
    "gateway": "Measure a gateway over a bare one, both before pods that answer from memory.",
    "tower": "Measure the viewer tower's latency by length of history.",
    "search": "Measure recall and latency of a large catalogue's index, over exact search and by "
    "selectivity of filters.",
}

app = typer.Typer(no_args_is_help=True, callback=only_warnings)
app.add_typer(bench_promises.app)


def _add(name: str, about: str) -> None:
    @app.command(name, help=about)
    def measured(
        data: DataOption = "ml-100k" if name == "tower" else "million",
        rounds: _Rounds = 5,
        as_json: RowsAsJson = False,
    ) -> None:
        from bench.speed.plan import SpeedPlan

        _measure(name, data, SpeedPlan(rounds=rounds), as_json)


for _name, _about in _MEASURES.items():
    _add(_name, _about)


@app.command()
def catalogue(
    data: DataOption = "million",
    small: _Small = "thousands",
    rounds: _Rounds = 5,
    as_json: RowsAsJson = False,
) -> None:
    """Measure a whole chain over a large catalogue beside the same over a small one."""
    from bench.speed.plan import SpeedPlan

    _measure("catalogue", data, SpeedPlan(rounds=rounds, small=small), as_json)


def _measure(name: str, data: str, plan: SpeedPlan, as_json: bool) -> None:
    from bench.speed.every import measure

    show(measure(Home.current(), data, plan, progress(), name), as_json)


@app.command()
def swap(
    data: Annotated[str, typer.Option(help="Data set whose newest release to swap.")] = "ml-100k",
    swaps: Annotated[int, typer.Option(min=2, help="Number of promotions, back and forth.")] = 20,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 60.0,
    quiet_seconds: Annotated[
        float, typer.Option(min=1, help="Seconds of load without a swap, as the baseline.")
    ] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Promote two releases back and forth under load; exit with 1 if an answer was lost or mixed.

    Runs a stack of its own on free ports: a running one is left alone.
    """
    from bench.swap import SwapPlan, measure_swaps

    plan = SwapPlan(swaps=swaps, rate=rate, quiet_seconds=quiet_seconds)
    result = measure_swaps(Home.current(), data, plan, progress())
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        table = table_of("measure", "figure", numbers={"figure"})
        for name, value in asdict(result).items():
            shown = f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
            table.add_row(name.replace("_", " "), shown)
        print_table(table)
    mixed = result.mixed_declared + result.mixed_undeclared
    if result.failed or mixed:
        raise VireoError(
            f"{result.failed} requests failed and {mixed} answers were mixed, "
            f"{result.mixed_undeclared} of them without saying so"
        )


@app.command()
def memory(
    events: Annotated[
        list[int] | None,
        typer.Option(min=30, help="Number of events; a million and ten million if absent."),
    ] = None,
    as_json: RowsAsJson = False,
) -> None:
    """Measure the peak memory of import, features and training, over their estimates."""
    from bench.memory import EVENTS, measure_memory

    show(measure_memory(Home.current(), events or EVENTS, progress()), as_json)


@app.command()
def profile(
    data: DataOption = "ml-100k",
    report: Annotated[
        Path, typer.Option(help="Folder to write profile.md, profile.json and SVGs to.")
    ] = Path("bench/report/profile"),
    seconds: Annotated[int, typer.Option(min=1, help="Seconds to sample each service for.")] = 15,
) -> None:
    """Draw a flame graph of each service under load."""
    from bench.speed.plan import SpeedPlan
    from bench.speed.profile import measure_profile
    from bench.speed.report import write_profiles

    home, plan = Home.current(), SpeedPlan()
    write_profiles(measure_profile(home, data, plan, seconds, report, progress()), report)


@app.command("all")
def every(
    data: Annotated[
        str, typer.Option(help="Data set to measure if no large one was trained.")
    ] = "ml-100k",
    large: Annotated[str, typer.Option(help="Data set with a large catalogue.")] = "million",
    small: _Small = "thousands",
    rounds: _Rounds = 5,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write speed.json and the page speed.md to; profiles services, too."
        ),
    ] = None,
    as_json: RowsAsJson = False,
) -> None:
    """Measure everything; what a large catalogue costs only if a release of it was trained."""
    from bench.speed.every import measure_all, served_of

    from bench.speed.plan import SpeedPlan
    from bench.speed.report import load_before, write_report

    home, plan, load = (
        Home.current(),
        SpeedPlan(rounds=rounds, small=small),
        load_before(progress()),
    )
    rows = show(measure_all(home, data, large, plan, progress()), as_json)
    if report is not None:
        from bench.speed.profile import measure_profile

        served = served_of(home, data, large)
        write_report(rows, served, load, report)  # at once: sampling may fail
        profiles = measure_profile(home, served, plan, 15, report, progress())
        write_report(rows, served, load, report, profiles)
