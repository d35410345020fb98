"""Commands of `vireo bench` that check what is promised; they exit with 1 if it doesn't hold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vireo.ops.cli.bench_rows import DataOption, RowsAsJson, progress, show
from vireo.ops.cli.tables import print_table, table_of
from vireo.server.errors import VireoError
from vireo.server.home import Home

if TYPE_CHECKING:
    from bench.speed.row import Row

app = typer.Typer()

_PartOption = Annotated[
    list[str] | None, typer.Option(help="What to measure; everything if absent.")
]


@app.command()
def live(
    data: DataOption = "ml-100k",
    part: _PartOption = None,
    short: Annotated[
        bool, typer.Option("--short", help="Everything once and briefly; no time is judged.")
    ] = False,
    as_json: RowsAsJson = False,
) -> None:
    """Measure events and the live catalogue, from a call to its effect; exit with 1 if one fails.

    Runs stacks of its own on free ports: a running one is left alone. Bounds are the stated ones.
    """
    from bench.live.plan import SHORT, LivePlan

    from bench.live.run import PARTS, measure_live

    _check_parts(part, PARTS)
    plan = SHORT if short else LivePlan()
    rows = show(measure_live(Home.current(), data, plan, progress(), part or PARTS), as_json)
    _check_bounds(rows)


@app.command()
def requests(
    data: DataOption = "ml-100k",
    part: _PartOption = None,
    large: Annotated[
        str, typer.Option(help="Data set with a large catalogue, to search by filters.")
    ] = "million",
    context: Annotated[
        str, typer.Option(help="Data set whose watches have a context, to measure its worth.")
    ] = "synth",
    short: Annotated[
        bool,
        typer.Option(
            "--short",
            help="Everything once and briefly, of search and context only what was trained; no "
            "time of slates is judged.",
        ),
    ] = False,
    as_json: RowsAsJson = False,
) -> None:
    """Measure what requests may ask: filters, pages, batches, context; exit with 1 if one fails.

    Runs a stack of its own on free ports, whose pods are killed: a running one is left alone. Then
    a large catalogue is searched by filters, and the chain compared with and without context.
    """
    from bench.requests.plan import SHORT, RequestsPlan
    from bench.requests.run import PARTS, measure_requests

    _check_parts(part, PARTS)
    plan = replace(SHORT if short else RequestsPlan(), large=large, context=context)
    rows = show(measure_requests(Home.current(), data, plan, progress(), part), as_json)
    _check_bounds(rows)


@app.command()
def chaos(
    data: DataOption = "ml-100k",
    case: Annotated[
        list[int] | None,
        typer.Option(min=1, max=18, help="Number of a case; all if absent."),
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
    for result in run_chaos(Home.current(), data, numbers, plan, progress()):
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
    data: DataOption = "ml-100k",
    requests: Annotated[int, typer.Option(min=1, help="Number of requests.")] = 20_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same requests.")] = 0,
) -> None:
    """Send bad requests to every method; exit with 1 if a process died or an answer was unclear.

    Runs a stack of its own on free ports: a running one is left alone. The last line that is
    printed is JSON. docs/fuzz.md describes requests and checks.
    """
    from bench.fuzz.run import run_fuzz

    result = run_fuzz(Home.current(), data, requests, seed, progress())
    typer.echo(json.dumps(asdict(result)))
    if not result.holds:
        raise VireoError(
            f"died: {', '.join(result.died) or 'none'}; unclear answers: "
            f"{', '.join(result.unwanted) or 'none'}; maximum growth of memory: "
            f"{max(result.memory.values(), default=0):.2f}; the last line has the rest"
        )


@app.command()
def alerts(
    data: DataOption = "ml-100k",
    case: Annotated[list[int] | None, typer.Option(help="Number of a case; all if absent.")] = None,
    clean: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds without a fault at first; an hour if absent, 0 with --case."
        ),
    ] = None,
    short: Annotated[
        bool, typer.Option("--short", help="Two cases and a clean minute; no time is judged.")
    ] = False,
    as_json: RowsAsJson = False,
) -> None:
    """Check that faults fire their alerts, and that `vireo doctor` names them; else exit with 1.

    The faults are those of `vireo bench chaos`, on a stack of its own with Prometheus: a running
    one is left alone. Without a fault no alert may fire.
    """
    from bench.alerts.plan import SHORT, SHORT_CASES, AlertsPlan

    from bench.alerts.run import CASES, measure_alerts

    if unknown := set(case or ()) - set(CASES):
        raise VireoError(f"there is no case {min(unknown)}; cases are {CASES[0]} to {CASES[-1]}")
    plan, chosen = (SHORT, SHORT_CASES) if short else (AlertsPlan(), CASES)
    if case or clean is not None:
        plan = replace(plan, clean=clean or 0.0)
    console = progress()
    rows = show(measure_alerts(Home.current(), data, plan, console, case or chosen), as_json)
    _check_bounds(rows)


def _check_parts(chosen: Iterable[str] | None, parts: Iterable[str]) -> None:
    """Raise VireoError unless each chosen part is one that can be measured."""
    if unknown := set(chosen or ()) - set(parts):
        raise VireoError(f"{', '.join(sorted(unknown))} isn't one of {', '.join(parts)}")


def _check_bounds(rows: Iterable[Row]) -> None:
    """Raise VireoError if a bound doesn't hold."""
    if broken := [row.measure for row in rows if row.holds is False]:
        raise VireoError(f"what is stated did not hold: {'; '.join(broken)}")
