"""`vireo bench`: measurements that take long, side by side in one run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from clients.cli.tables import print_table, table_of
from server.errors import VireoError
from server.home import Home

if TYPE_CHECKING:
    from bench.speed.plan import SpeedPlan
    from bench.speed.row import Row

_Data = Annotated[str, typer.Option(help="Data set whose newest release to serve.")]
_Small = Annotated[str, typer.Option(help="Data set with a small catalogue, to compare with.")]
_Rounds = Annotated[int, typer.Option(min=1, help="Rounds of interleaved measurements.")]
_Transport = Annotated[
    Literal["grpcio", "native"],
    typer.Option(help="VIREO_TRANSPORT of candidate and ranking pods."),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines, one per row.")]
_OF_PODS = {
    "chain": "Measure the whole chain, with and without Envoy, over a bare one.",
    "tail": "Measure tail latency at a sustained load.",
    "rank": "Measure a ranking pod over its model alone, and beside the peers of `bench-peers`.",
    "idle": "Measure the processor time of an idle stack.",
    "pods": "Measure pods' start time from a warm cache, and their memory.",
}
_WITHOUT_PODS = {
    "gateway": "Measure a gateway over a bare one, both before pods that answer from memory.",
    "tower": "Measure the viewer tower's latency by length of history.",
    "search": "Measure recall and latency of a large catalogue's index, over exact search and by "
    "selectivity of filters.",
}

app = typer.Typer(no_args_is_help=True)


def _add_of_pods(name: str, about: str) -> None:
    @app.command(name, help=about)
    def measured(
        data: _Data = "million",
        rounds: _Rounds = 5,
        transport: _Transport = "grpcio",
        as_json: _AsJson = False,
    ) -> None:
        from bench.speed.plan import SpeedPlan

        _measure(name, data, SpeedPlan(rounds=rounds, transport=transport), as_json)


def _add_without_pods(name: str, about: str) -> None:
    @app.command(name, help=about)
    def measured(
        data: _Data = "ml-100k" if name == "tower" else "million",
        rounds: _Rounds = 5,
        as_json: _AsJson = False,
    ) -> None:
        from bench.speed.plan import SpeedPlan

        _measure(name, data, SpeedPlan(rounds=rounds), as_json)


for _name, _about in _OF_PODS.items():
    _add_of_pods(_name, _about)
for _name, _about in _WITHOUT_PODS.items():
    _add_without_pods(_name, _about)


@app.command()
def catalogue(
    data: _Data = "million",
    small: _Small = "thousands",
    rounds: _Rounds = 5,
    as_json: _AsJson = False,
) -> None:
    """Measure a whole chain over a large catalogue beside the same over a small one."""
    from bench.speed.plan import SpeedPlan

    _measure("catalogue", data, SpeedPlan(rounds=rounds, small=small), as_json)


def _measure(name: str, data: str, plan: SpeedPlan, as_json: bool) -> None:
    from bench.speed.every import measure

    _show(measure(Home.current(), data, plan, _progress(), name), as_json)


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
    result = measure_swaps(Home.current(), data, plan, _progress())
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
    as_json: _AsJson = False,
) -> None:
    """Measure the peak memory of import, features and training, over their estimates."""
    from bench.memory import EVENTS, measure_memory

    _show(measure_memory(Home.current(), events or EVENTS, _progress()), as_json)


@app.command()
def live(
    data: _Data = "ml-100k",
    part: Annotated[
        list[str] | None, typer.Option(help="What to measure; everything if absent.")
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="Everything once and briefly; no time is judged.")
    ] = False,
    as_json: _AsJson = False,
) -> None:
    """Measure events and the live catalogue, from a call to its effect; exit with 1 if one fails.

    Runs stacks of its own on free ports: a running one is left alone. Bounds are the stated ones.
    """
    from bench.live.plan import SHORT, LivePlan
    from bench.live.run import PARTS, measure_live

    if unknown := set(part or ()) - set(PARTS):
        raise VireoError(f"{', '.join(sorted(unknown))} isn't one of {', '.join(PARTS)}")
    plan = SHORT if short else LivePlan()
    rows = _show(measure_live(Home.current(), data, plan, _progress(), part or PARTS), as_json)
    if broken := [row.measure for row in rows if row.holds is False]:
        raise VireoError(f"what is stated did not hold: {'; '.join(broken)}")


@app.command()
def requests(
    data: _Data = "ml-100k",
    part: Annotated[
        list[str] | None, typer.Option(help="What to measure; everything if absent.")
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="Everything once and briefly; no time is judged.")
    ] = False,
    as_json: _AsJson = False,
) -> None:
    """Measure filters, pages and batches while pods are killed; exit with 1 if one fails.

    Runs a stack of its own on free ports: a running one is left alone. What a filtered search
    takes `vireo bench search` measures, and what context is worth `vireo evaluate study context`.
    """
    from bench.requests.plan import SHORT, RequestsPlan
    from bench.requests.run import PARTS, measure_requests

    if unknown := set(part or ()) - set(PARTS):
        raise VireoError(f"{', '.join(sorted(unknown))} isn't one of {', '.join(PARTS)}")
    plan = SHORT if short else RequestsPlan()
    rows = _show(measure_requests(Home.current(), data, plan, _progress(), part or PARTS), as_json)
    if broken := [row.measure for row in rows if row.holds is False]:
        raise VireoError(f"what is stated did not hold: {'; '.join(broken)}")


@app.command()
def profile(
    data: _Data = "ml-100k",
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
    write_profiles(measure_profile(home, data, plan, seconds, report, _progress()), report)


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
    as_json: _AsJson = False,
) -> None:
    """Measure everything; what a large catalogue costs only if a release of it was trained."""
    from bench.speed.every import measure_all, served_of
    from bench.speed.plan import SpeedPlan
    from bench.speed.report import load_before, write_report

    home, plan, load = (
        Home.current(),
        SpeedPlan(rounds=rounds, small=small),
        load_before(_progress()),
    )
    rows = _show(measure_all(home, data, large, plan, _progress()), as_json)
    if report is not None:
        from bench.speed.profile import measure_profile

        served = served_of(home, data, large)
        write_report(rows, served, load, report)  # at once: sampling may fail
        profiles = measure_profile(home, served, plan, 15, report, _progress())
        write_report(rows, served, load, report, profiles)


def _progress() -> Console:
    return Console(stderr=True, highlight=False)


def _show(measured: Iterable[Row], as_json: bool) -> list[Row]:
    """Print rows, and return them; a bound that doesn't hold is no error."""
    rows = []
    for row in measured:
        rows.append(row)
        if as_json:  # at once: what comes later takes long, and may fail
            typer.echo(json.dumps(row.document()))
    if not as_json:
        print_rows(rows)
    return rows


def print_rows(rows: Sequence[Row]) -> None:
    """Print a table of figures with their spread and bound."""
    numbers = ("figure", "minimum", "maximum", "bound")
    table = table_of("measure", *numbers, "holds", numbers=numbers, texts={"measure"})
    for row in rows:
        low, high = row.spread or (None, None)
        holds = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.holds]
        spread = ["" if each is None else f"{each:.2f}" for each in (low, high)]
        table.add_row(row.measure, f"{row.figure:.3f}", *spread, row.bound_text, holds)
    print_table(table)


@app.command()
def chaos(
    data: _Data = "ml-100k",
    case: Annotated[
        list[int] | None,
        typer.Option(min=1, max=17, help="Number of a case; all if absent."),
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="Each fault once and briefly; no time is judged.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines, one per case.")
    ] = False,
) -> None:
    """Kill, hang, cut off and overload a stack under load; exit with 1 if a case does not hold.

    Runs a stack of its own on free ports: a running one is left alone. docs/chaos.md describes
    the cases.
    """
    from bench.chaos.plan import SHORT, ChaosPlan
    from bench.chaos.run import CASES, run_chaos

    numbers = sorted(set(case or CASES))
    counts_of = ("requests", "failed", "degraded")
    table = table_of("case", "", *counts_of, "holds", "note", numbers=counts_of, texts={"", "note"})
    broken = []
    plan = SHORT if short else ChaosPlan()
    for result in run_chaos(Home.current(), data, numbers, plan, _progress()):
        if as_json:
            typer.echo(json.dumps(asdict(result)))
        holds = {True: "[green]yes[/]", False: "[red]no[/]", None: "not run"}[result.holds]
        counts = (f"{result.requests:,}", f"{result.failed:,}", f"{result.degraded:,}")
        note = Text(result.note)
        table.add_row(str(result.case), CASES[result.case].title, *counts, holds, note)
        if result.holds is False:
            broken.append(str(result.case))
    if not as_json:
        print_table(table)
    if broken:
        raise VireoError(f"what is stated did not hold in case {', '.join(broken)}")


@app.command()
def fuzz(
    data: _Data = "ml-100k",
    requests: Annotated[int, typer.Option(min=1, help="Number of requests.")] = 20_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same requests.")] = 0,
) -> None:
    """Send bad requests to every method; exit with 1 if a process died or an answer was unclear.

    Runs a stack of its own on free ports: a running one is left alone. The last line that is
    printed is JSON. docs/fuzz.md describes requests and checks.
    """
    from bench.fuzz.run import run_fuzz

    result = run_fuzz(Home.current(), data, requests, seed, _progress())
    typer.echo(json.dumps(asdict(result)))
    if not result.holds:
        raise VireoError(
            f"died: {', '.join(result.died) or 'none'}; unclear answers: "
            f"{', '.join(result.unwanted) or 'none'}; maximum growth of memory: "
            f"{max(result.memory.values(), default=0):.2f}; the last line has the rest"
        )
