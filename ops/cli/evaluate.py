"""`vireo evaluate`: measure a release on each viewer's held-out watch."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from rich.console import Console

from vireo.ops.cli.options import (
    CaOption,
    DataOption,
    JsonOption,
    SomeDataOption,
    TargetOption,
    TokenOption,
    chosen_dataset,
)
from vireo.ops.cli.output import print_json, print_result, print_table, remark, table_of
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
from vireo.training.evaluation.run import (
    Evaluated,
    evaluate_staged,
    read_measured,
    write_report_page,
)
from vireo.training.evaluation.served import Stack, evaluate_served
from vireo.training.progress import heartbeat
from vireo.training.run import measuring_home
from vireo.training.studies import Studies

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


@app.callback()
def evaluate(
    context: typer.Context,
    data: SomeDataOption = "",
    baselines: _Baselines = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the newest release on held-out watches, beside popularity, item-kNN and EASE.

    vireo evaluate --data mine
    """
    command = context.invoked_subcommand
    sources = map(context.get_parameter_source, context.params)
    if command is None:
        measure_offline(chosen_dataset(data), baselines=baselines, as_json=as_json)
    elif any(source and source.name == "COMMANDLINE" for source in sources):
        raise typer.BadParameter(f"options of {command} go after its name")


def measure_offline(dataset: str, *, baselines: bool = False, as_json: bool = False) -> None:
    """Measure the newest release of a data set in this process, and print the results.

    Raises:
        VireoError: there is no release, or it can't be measured.
    """
    # The served release has seen every watch: measure its twin, which has not.
    home = measuring_home(Home.current())
    with heartbeat(Console(stderr=True), f"evaluating {dataset}"):
        found = evaluate_staged(home, dataset, BASELINES if baselines else QUICK)
    _print(found, as_json)
    if not as_json:
        remark(f"report: {home.run(dataset) / 'report' / 'index.html'}")


def show_measured(dataset: str) -> None:
    """Print what training measured of the newest release of a data set, and write its page.

    Raises:
        VireoError: there is no release, or it can't be measured.
    """
    home = measuring_home(Home.current())
    _print(read_measured(home, dataset), as_json=False)
    remark(f"report: {write_report_page(home, dataset)}")


@app.command()
def served(
    data: DataOption = "",
    lists: Annotated[
        Path | None,
        typer.Option(
            help="File to write each viewer's top 100 to, as JSON lines; by default served.jsonl "
            "in the run's report."
        ),
    ] = None,
    target: TargetOption = "",
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
    """Measure end to end: request every viewer's recommendations from a stack, through Envoy.

    A stack is started for it, unless --target names one that serves the measured release and its
    features.

    vireo evaluate served --data mine --lists lists.jsonl
    """
    home, errors = measuring_home(Home.current()), Console(stderr=True)
    report = home.run(data) / "report"
    path = lists or report / "served.jsonl"
    running = nullcontext(target) if target else served_release(home, data)
    with heartbeat(errors, f"evaluating {data}"), running as address:
        edge = edge_of(address, ca, token) if target else Edge(address)
        stack = Stack(edge.target, deadline, concurrency, edge.credentials())
        stored = partial(stored_manifest, home)
        names = BASELINES if baselines else QUICK
        found = evaluate_served(home, data, stack, path, stored, errors, names)
    _print(found, as_json)
    if not as_json:
        remark(f"lists: {path}")
        if found.agreement:
            remark(f"report: {report / 'index.html'}")


@app.command()
def page(
    file: Annotated[
        Path | None,
        typer.Argument(help="File to write; by default index.html in the run's report."),
    ] = None,
    data: DataOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write one page with the results of all evaluations so far.

    vireo evaluate page report.html
    """
    written = write_report_page(measuring_home(Home.current()), data, file)
    print_result({"page": written}, f"page: {written}", as_json)


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


def _print(evaluated: Evaluated, as_json: bool) -> None:
    """Print JSON, or a table of the systems and a line for each other result."""
    if as_json:
        print_json(evaluated)
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


StudyName = Literal["sources", "quotas", "baselines", "diversity", "ablations", "cold-start"]


@app.command()
def study(
    name: Annotated[StudyName, typer.Argument(help="What to study.")],
    without: Annotated[
        list[str] | None,
        typer.Argument(help="For ablations: sources, or inputs of the ranker."),
    ] = None,
    data: DataOption = "",
    profile: Annotated[str, typer.Option(help="Settings to train with.")] = "demo",
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="For cold-start: maximum minutes of a training.")
    ] = None,
    folds: Annotated[
        int,
        typer.Option(
            min=1,
            max=20,
            help="For cold-start: trainings, each without another 5% of the videos: 20 leave out "
            "each once.",
        ),
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Study one part of the newest release, or tune it; print the results.

    - sources: recall of each candidate source, of their union, and of the union without each.
    - quotas: how recall on validation grows with the quotas of the candidate sources.
    - baselines: the settings of every baseline on validation; evaluations use the best.
    - diversity: what diversity costs and gains.
    - ablations: the ranker retrained without each of the named sources or inputs.
    - cold-start: towers trained without some viewers and videos, measured on these.

    The last two train, and resume if they were interrupted.

    vireo evaluate study sources --data mine
    """
    if (name == "ablations") != bool(without):
        raise typer.BadParameter("name what to do without, for ablations alone")
    arguments: dict[str, tuple[Any, ...]] = {
        "ablations": (without,),
        "cold-start": (minutes, folds),
    }
    # Served models hold nothing out, so their measured twin is studied.
    home, errors = measuring_home(Home.current()), Console(stderr=True)
    method = name.replace("-", "_")
    studies = Studies(home, data, profile, errors)
    with heartbeat(errors, f"studying {data}"):
        document = getattr(studies, method)(*arguments.get(name, ()))
    if as_json:
        print_json({method: document})
        return
    typer.echo(yaml.safe_dump(document, sort_keys=False))
    remark(f"report: {home.run(data) / 'report'}")
