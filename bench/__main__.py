"""The commands of `vireo bench`, which hands its arguments to `python -m bench`."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bench.rows import Plan, check_bounds, show
from vireo.ops.cli.__main__ import main
from vireo.ops.cli.output import only_warnings, print_table, table_of
from vireo.ops.stack.state import Layout
from vireo.server.errors import VireoError
from vireo.server.home import Home

_LARGE, _SMALL = "million", "ml-100k"
_Data = Annotated[str, typer.Option(help="Data set whose newest release to serve.")]
_Served = Annotated[
    str, typer.Option(help=f"Data set to serve; {_LARGE} if it was trained, else {_SMALL}.")
]
_Rounds = Annotated[int, typer.Option(min=1, help="Rounds of interleaved measurements.")]
_Part = Annotated[list[str] | None, typer.Option(help="What to measure; everything if absent.")]
_Case = Annotated[list[int] | None, typer.Option(help="Number of a case; all if absent.")]
_Layout = Annotated[Layout, typer.Option(help="Layout of the stack; see `vireo up --help`.")]
_Short = Annotated[bool, typer.Option("--short", help="All once and briefly; no time is judged.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, one per row.")]
_SPEED = {
    "chain": "Measure the whole chain, with and without Envoy, over a bare one and a peer's.",
    "tail": "Measure tail latency at a sustained load.",
    "pods": "Measure pods' start time from a warm cache, and their memory.",
    "idle": "Measure the processor time and memory of stacks of which nobody asks anything.",
    "search": "Measure recall of a large catalogue's search and its cost, by selectivity of "
    "filters.",
    "all": f"Measure all of these, over the data set {_LARGE} if it was trained, else {_SMALL}.",
}
_PROMISES = {
    "live": "Measure events, the live catalogue and swaps of releases",
    "requests": "Measure what requests may ask: filters, pages, batches",
    "learn": "Measure what learning from slates costs, and loses",
}
_OWN = "Runs stacks of its own on free ports, whose pods are killed: a running one is left alone."

app = typer.Typer(
    no_args_is_help=True,
    callback=only_warnings,
    help="Measure performance, side by side in one run: most commands start stacks of their own.",
    pretty_exceptions_enable=False,
)


def _progress() -> Console:
    """Return where progress is shown, away from what programs read."""
    return Console(stderr=True, highlight=False)


def _add_speed(name: str, about: str) -> None:
    @app.command(name, help=about)
    def measured(data: _Served = "", rounds: _Rounds = 5, as_json: _Json = False) -> None:
        from bench.speed.measures import measure
        from bench.speed.stand import SpeedPlan

        home = Home.current()
        served = data or (_LARGE if home.staged_release(_LARGE).exists() else _SMALL)
        names = [each for each in _SPEED if each != "all"] if name == "all" else [name]
        show(measure(home, served, SpeedPlan(rounds=rounds), _progress(), names), as_json)


for _name, _about in _SPEED.items():
    _add_speed(_name, _about)


def _add_promises(name: str, about: str) -> None:
    @app.command(name, help=f"{about}; exit with 1 if a bound fails.\n\n{_OWN}")
    def measured(
        data: _Data = _SMALL,
        part: _Part = None,
        layout: _Layout = "separate",
        short: _Short = False,
        as_json: _Json = False,
    ) -> None:
        from bench.live.run import PARTS, measure

        known, plan = PARTS[name], Plan(layout, timed=not short)
        _check_known(part, known)
        check_bounds(show(measure(Home.current(), data, plan, _progress(), part or known), as_json))


for _name, _about in _PROMISES.items():
    _add_promises(_name, _about)


@app.command()
def chaos(
    data: _Data = _SMALL,
    case: _Case = None,
    layout: _Layout = "separate",
    short: _Short = False,
    as_json: _Json = False,
) -> None:
    """Kill, hang, cut off and overload a stack under load; exit with 1 if a case does not hold.

    Runs a stack of its own on free ports: a running one is left alone. docs/chaos.md describes
    the cases.
    """
    from bench.chaos.cases import CASES, run_chaos
    from bench.chaos.findings import SHORT, ChaosPlan

    _check_known(case, CASES)
    counts_of = ("requests", "failed", "degraded")
    table = table_of("case", "", *counts_of, "holds", "note", numbers=counts_of, texts={"", "note"})
    broken, plan = [], replace(SHORT if short else ChaosPlan(), layout=layout)
    for result in run_chaos(Home.current(), data, sorted(set(case or CASES)), plan, _progress()):
        if as_json:
            typer.echo(json.dumps(asdict(result)))
        holds = {True: "[green]yes[/]", False: "[red]no[/]", None: "not run"}[result.holds]
        counts = (f"{result.requests:,}", f"{result.failed:,}", f"{result.degraded:,}")
        note, title = Text(result.note), CASES[result.case].title
        table.add_row(str(result.case), title, *counts, holds, note)
        if result.holds is False:
            broken.append(str(result.case))
    if not as_json:
        print_table(table)
    if broken:
        raise VireoError(f"what is stated did not hold in case {', '.join(broken)}")


@app.command()
def alerts(
    data: _Data = _SMALL,
    case: _Case = None,
    clean: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds without a fault at first; an hour if absent, 0 with --case."
        ),
    ] = None,
    short: _Short = False,
    as_json: _Json = False,
) -> None:
    """Check that faults fire their alerts, and that `vireo doctor` names them; else exit with 1.

    The faults are those of `vireo bench chaos`, on a stack of its own with Prometheus: a running
    one is left alone. Without a fault no alert may fire.
    """
    from bench.alerts import FULL, SHORT, SHORT_CASES, measure_alerts
    from bench.chaos.cases import CASES

    _check_known(case, CASES)
    plan, chosen = (SHORT, SHORT_CASES) if short else (FULL, tuple(CASES))
    if case:
        clean = clean or 0.0
    rows = measure_alerts(Home.current(), data, plan, _progress(), case or chosen, clean)
    check_bounds(show(rows, as_json))


@app.command()
def fuzz(
    data: _Data = _SMALL,
    requests: Annotated[int, typer.Option(min=1, help="Number of requests.")] = 20_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same requests.")] = 0,
    layout: _Layout = "separate",
) -> None:
    """Send bad requests to every method; exit with 1 if a process died or an answer was unclear.

    Runs a stack of its own on free ports: a running one is left alone. The last line that is
    printed is JSON. docs/fuzz.md describes requests and checks.
    """
    from bench.fuzz.run import run_fuzz

    result = run_fuzz(Home.current(), data, requests, seed, _progress(), layout)
    typer.echo(json.dumps(asdict(result)))
    if not result.holds:
        raise VireoError(
            f"died: {', '.join(result.died) or 'none'}; unclear answers: "
            f"{', '.join(result.unwanted) or 'none'}; maximum growth of memory: "
            f"{max(result.memory.values(), default=0):.2f}; the last line has the rest"
        )


def _check_known(chosen: Collection[object] | None, known: Collection[object]) -> None:
    """Raise VireoError unless each chosen part or case is one that can be measured."""
    if unknown := set(chosen or ()) - set(known):
        names = (", ".join(sorted(map(str, each))) for each in (unknown, known))
        raise VireoError("{} isn't one of {}".format(*names))


if __name__ == "__main__":
    main(partial(app, prog_name="vireo bench"))
