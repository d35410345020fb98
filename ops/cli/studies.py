"""`vireo evaluate study`: studies of one part of the newest release.

The report shows all results of a study; the main figures are printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from vireo.ops.cli.output import print_json, print_table, table_of

if TYPE_CHECKING:
    from vireo.training.studies import Studies

DataOption = Annotated[str, typer.Option(help="Name of the data set.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Profile = Annotated[str, typer.Option(help="Settings to train with.")]

app = typer.Typer(no_args_is_help=True)

Row = tuple[str, Mapping[str, float]]


@app.command()
def sources(data: DataOption = "ml-100k", as_json: JsonOption = False) -> None:
    """Measure recall of each candidate source, of their union, and of the union without each."""
    _study("sources", lambda studies: studies.sources(), data, as_json)


@app.command()
def quotas(data: DataOption = "ml-100k", as_json: JsonOption = False) -> None:
    """Show how recall on validation grows with the quotas of the candidate sources."""
    _study("quotas", lambda studies: studies.quotas(), data, as_json)


@app.command()
def baselines(data: DataOption = "ml-100k", as_json: JsonOption = False) -> None:
    """Try the settings of every baseline on validation; evaluations use the best."""
    _study("baselines", lambda studies: studies.baselines(), data, as_json)


@app.command()
def diversity(data: DataOption = "ml-100k", as_json: JsonOption = False) -> None:
    """Measure what diversity costs and gains."""
    _study("diversity", lambda studies: studies.diversity(), data, as_json)


@app.command()
def ablations(
    without: Annotated[
        list[str], typer.Argument(metavar="NAME", help="Sources, or inputs of the ranker.")
    ],
    data: DataOption = "ml-100k",
    profile: _Profile = "demo",
    as_json: JsonOption = False,
) -> None:
    """Retrain the ranker without each of the named sources or inputs.

    An interrupted study resumes.
    """
    _study("ablations", lambda studies: studies.ablations(without), data, as_json, profile)


@app.command("cold-start")
def cold_start(
    data: DataOption = "ml-100k",
    profile: _Profile = "demo",
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Maximum minutes of a training.")
    ] = None,
    folds: Annotated[
        int,
        typer.Option(
            min=1,
            max=20,
            help="Trainings, each without another 5% of the videos: 20 leave out each once.",
        ),
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train towers without some viewers and videos, then measure recommendations on these.

    An interrupted study resumes.
    """
    _study("cold_start", lambda studies: studies.cold_start(minutes, folds), data, as_json, profile)


def _study(
    name: str,
    study: Callable[[Studies], Any],
    data: str,
    as_json: bool,
    profile: str = "demo",
) -> None:
    """Run a study; print it as JSON, or its main figures and the report's path."""
    from vireo.server.home import Home
    from vireo.training.run import measuring_home
    from vireo.training.studies import Studies

    # Served models hold nothing out, so their measured twin is studied.
    home, errors = measuring_home(Home.current()), Console(stderr=True)
    document = study(Studies(home, data, profile, errors))
    if as_json:
        print_json({name: document})
        return
    print_study(name, document)
    typer.echo(f"report: {home.run(data) / 'report'}")


def print_study(name: str, document: Any) -> None:
    """Print a table of a study's main figures."""
    rows = list(_ROWS[name](document))
    columns = tuple(rows[0][1])
    table = table_of("", *columns, numbers=columns, title=name.replace("_", " "))
    for title, figures in rows:
        table.add_row(title, *(f"{value:.4f}" for value in figures.values()))
    print_table(table)


def _sources(document: Mapping[str, Any]) -> Iterator[Row]:
    yield from document["alone"].items()
    yield "all together", document["union"]
    yield "k of each source", {k: pool["recall"] for k, pool in document["pooled"].items()}
    yield "videos that these are", {k: pool["videos"] for k, pool in document["pooled"].items()}
    for name, recalls in document["without"].items():
        yield f"without {name}", recalls


def _quotas(document: list[dict[str, float]]) -> Iterator[Row]:
    yield from ((str(place), shares) for place, shares in enumerate(document[:10], start=1))


def _baselines(document: Mapping[str, Any]) -> Iterator[Row]:
    for name, found in document["baselines"].items():
        start, best = found["tried"][0]["ndcg_10"], found["ndcg_10"]
        yield name, {"validation NDCG@10 at first": start, "at best": best}


def _diversity(document: Mapping[str, Any]) -> Iterator[Row]:
    for point in document["points"]:
        figures = {name: value for name, value in point.items() if name != "strength"}
        mark = " (released)" if point["strength"] == document["chosen"] else ""
        yield f"{point['strength']:g}{mark}", figures


def _ablations(document: Mapping[str, Any]) -> Iterator[Row]:
    yield "whole chain", document["full"] | {"lost": 0.0, "p": 1.0}
    for name, measures in document["without"].items():
        test = document["tests"][name]
        yield f"without {name}", measures | {"lost": test["ndcg_10"]["value"], "p": test["p_holm"]}


def _cold_start(document: Mapping[str, Any]) -> Iterator[Row]:
    groups = {f"viewers, first {name}": group for name, group in document["viewers"].items()}
    groups |= {f"viewers, last {name}": group for name, group in document["late_viewers"].items()}
    for title, group in (*groups.items(), ("videos", document["videos"])):
        for system, measures in group["systems"].items():
            figures = {name: measures[name] for name in ("hr_10", "ndcg_10", "recall_100")}
            yield f"{title}: {system}", figures


_ROWS: dict[str, Callable[[Any], Iterator[Row]]] = {
    "sources": _sources,
    "quotas": _quotas,
    "baselines": _baselines,
    "diversity": _diversity,
    "ablations": _ablations,
    "cold_start": _cold_start,
}
