"""`vireo evaluate`: measure a release on each viewer's held-out watch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from vireo.ops.cli.output import CaOption, TokenOption, print_json, print_table, table_of
from vireo.ops.cli.own_stack import served_release
from vireo.ops.edge import Edge, edge_of
from vireo.ops.stack.s3 import access, external_s3
from vireo.ops.stack.settings import StackSettings
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.manifest import Manifest
from vireo.server.releases.store import ReleaseStore
from vireo.server.signals import TASKS
from vireo.training.evaluation.baselines import BASELINES, QUICK
from vireo.training.evaluation.report import MEASURES
from vireo.training.evaluation.run import Evaluated, evaluate_staged, write_report_page
from vireo.training.evaluation.served import Stack, evaluate_served
from vireo.training.heartbeat import heartbeat
from vireo.training.run import measuring_home
from vireo.training.studies import Studies

DataOption = Annotated[str, typer.Option(help="Name of the data set.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Profile = Annotated[str, typer.Option(help="Settings to train with.")]

_RANKER = {
    "auc": "AUC",
    "ece": "calibration error",
    "predicted_over_observed": "predicted over observed",
}
_Baselines = Annotated[
    bool,
    typer.Option(
        "--baselines",
        help="Compare with every baseline, with confidence intervals, paired tests and slices; "
        "by default only with popularity, item-kNN and, up to 20,000 videos, EASE.",
    ),
]


app = typer.Typer(invoke_without_command=True)
study = typer.Typer(no_args_is_help=True)
app.add_typer(study, name="study", help="Study one part of a release, or tune it.")


@app.callback()
def evaluate(
    context: typer.Context,
    data: DataOption = "ml-100k",
    baselines: _Baselines = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the newest release on held-out watches, beside popularity, item-kNN and EASE."""
    command = context.invoked_subcommand
    if command is None:
        measure_offline(data, baselines=baselines, as_json=as_json)
    elif (data, baselines, as_json) != ("ml-100k", False, False):
        raise VireoError(f"options of {command} go after its name: vireo evaluate {command} …")


def measure_offline(dataset: str, *, baselines: bool = False, as_json: bool = False) -> None:
    """Measure the newest release of a data set in this process, and print the results.

    Raises:
        VireoError: there is no release, or it can't be measured.
    """
    # The served release has seen every watch: measure its twin, which has not.
    home = measuring_home(Home.current())
    with heartbeat(Console(stderr=True), f"evaluating {dataset}"):
        found = evaluate_staged(home, dataset, _names(baselines))
    _print(found, as_json)
    if not as_json:
        typer.echo(f"report: {home.run(dataset) / 'report' / 'index.html'}")


@app.command()
def served(
    data: DataOption = "ml-100k",
    lists: Annotated[
        Path | None,
        typer.Option(
            help="File to write each viewer's top 100 to, as JSON lines; by default served.jsonl "
            "in the run's report."
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="host:port of the edge of a running stack that serves a measured release and "
            "its features; by default a stack is started for the evaluation."
        ),
    ] = "",
    ca: CaOption = None,
    token: TokenOption = "",
    concurrency: Annotated[
        int, typer.Option(min=1, max=256, help="Maximum concurrent requests.")
    ] = 8,
    deadline: Annotated[
        float, typer.Option(min=0.01, help="Deadline of each request in seconds.")
    ] = 5.0,
    baselines: _Baselines = False,
    as_json: JsonOption = False,
) -> None:
    """Measure end to end: request every viewer's recommendations from a stack, through Envoy."""
    home, errors = measuring_home(Home.current()), Console(stderr=True)
    report = home.run(data) / "report"
    path = lists or report / "served.jsonl"
    with (
        heartbeat(errors, f"evaluating {data}"),
        _asked_edge(home, data, target, ca, token) as edge,
    ):
        stack = Stack(edge.target, deadline, concurrency, edge.credentials())
        stored = partial(stored_manifest, home)
        found = evaluate_served(home, data, stack, path, stored, errors, _names(baselines))
    _print(found, as_json)
    if not as_json:
        typer.echo(f"lists: {path}")
        if found.agreement:
            typer.echo(f"report: {report / 'index.html'}")


@app.command()
def page(
    file: Annotated[
        Path | None,
        typer.Argument(help="File to write; by default index.html in the run's report."),
    ] = None,
    data: DataOption = "ml-100k",
) -> None:
    """Write one page with the results of all evaluations so far."""
    home = measuring_home(Home.current())
    typer.echo(f"page: {write_report_page(home, data, file)}")


def stored_manifest(home: Home, release_id: str) -> Manifest:
    """Return the manifest of a release in the store.

    Raises:
        VireoError: no store is known, or it has no such release.
    """
    settings = external_s3() or access(StackSettings.load())
    if settings is None:
        raise VireoError(
            f"the manifest of {release_id}, which is served, is neither in {home.root} nor in a "
            "known store; set VIREO_S3_ENDPOINT and its keys, or VIREO_HOME to the stack's home"
        )
    return ReleaseStore(settings).manifest(release_id)


def _names(every: bool) -> Sequence[str]:
    return BASELINES if every else QUICK


@contextmanager
def _asked_edge(
    home: Home, dataset: str, target: str, ca: Path | None, token: str
) -> Iterator[Edge]:
    """Yield the edge at `target`, or that of a temporary stack that serves `home`'s release."""
    if target:
        yield edge_of(target, ca, token)
        return
    with served_release(home, dataset) as own:
        yield edge_of(own, None, "")


def _print(evaluated: Evaluated, as_json: bool) -> None:
    """Print JSON, or a table of the systems and a line for each other result."""
    if as_json:
        typer.echo(json.dumps(asdict(evaluated), indent=2))
        return

    console = Console(highlight=False)
    title = f"{evaluated.release_id}: held-out watches, all unwatched videos ranked"
    columns = tuple(MEASURES.values())
    table = table_of("", *columns, numbers=columns, title=title)
    systems = dict(evaluated.metrics)
    ranker = systems.pop("ranker", None)
    for name, measures in systems.items():
        style = "bold" if name in ("chain", "served") else None
        table.add_row(name, *(f"{measures[column]:.3f}" for column in MEASURES), style=style)
    print_table(table, console)
    if ranker:
        for task in (each.name for each in TASKS):
            found = [
                f"{title} {ranker[f'{task}_{name}']:.4f}"
                for name, title in _RANKER.items()
                if f"{task}_{name}" in ranker
            ]
            if found:
                console.print(f"ranker, {task}: {', '.join(found)}")
        console.print(f"candidates hold {ranker['candidate_recall']:.1%} of the held-out videos")
    if evaluated.answers:
        counts = (f"{n} {name.replace('_', ' ')}" for name, n in evaluated.answers.items())
        console.print(f"answers: {', '.join(counts)}")
    if evaluated.agreement:
        same, differing = evaluated.agreement.same_top_10, evaluated.agreement.differing_viewers
        console.print(f"same ten best as in process: {same:.2%} of viewers, {differing} differ")


@study.command()
def sources(data: DataOption = "ml-100k", as_json: JsonOption = False) -> None:
    """Measure recall of each candidate source, of their union, and of the union without each."""
    _study("sources", lambda studies: studies.sources(), data, as_json)


@study.command()
def quotas(data: DataOption = "ml-100k", as_json: JsonOption = False) -> None:
    """Show how recall on validation grows with the quotas of the candidate sources."""
    _study("quotas", lambda studies: studies.quotas(), data, as_json)


@study.command()
def baselines(data: DataOption = "ml-100k", as_json: JsonOption = False) -> None:
    """Try the settings of every baseline on validation; evaluations use the best."""
    _study("baselines", lambda studies: studies.baselines(), data, as_json)


@study.command()
def diversity(data: DataOption = "ml-100k", as_json: JsonOption = False) -> None:
    """Measure what diversity costs and gains."""
    _study("diversity", lambda studies: studies.diversity(), data, as_json)


@study.command()
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


@study.command("cold-start")
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


@study.command()
def context(
    data: DataOption = "synth", profile: _Profile = "demo", as_json: JsonOption = False
) -> None:
    """Measure what the context of requests is worth, against models trained without it.

    The release must have been trained with the same profile. An interrupted study resumes.
    """
    _study("context", lambda studies: studies.context(), data, as_json, profile)


def _study(
    name: str,
    run: Callable[[Studies], Any],
    data: str,
    as_json: bool,
    profile: str = "demo",
) -> None:
    """Run a study; print it as JSON, or as YAML with the report's path."""
    # Served models hold nothing out, so their measured twin is studied.
    home, errors = measuring_home(Home.current()), Console(stderr=True)
    with heartbeat(errors, f"studying {data}"):
        document = run(Studies(home, data, profile, errors))
    if as_json:
        print_json({name: document})
        return
    typer.echo(yaml.safe_dump(document, sort_keys=False))
    typer.echo(f"report: {home.run(data) / 'report'}")
