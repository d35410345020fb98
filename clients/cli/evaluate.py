"""`vireo evaluate`: how good the newest release, or the running stack, is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from clients.cli.edge import CaOption, Edge, TokenOption, edge_of
from clients.cli.studies import print_studies
from clients.cli.tables import print_table, table_of

if TYPE_CHECKING:
    from server.home import Home
    from training.evaluation.commands import Evaluated

_COLUMNS = {
    "hr_10": "HR@10",
    "ndcg_10": "NDCG@10",
    "recall_50": "Recall@50",
    "recall_100": "Recall@100",
    "coverage_10": "Coverage@10",
}


def evaluate(
    data: Annotated[str, typer.Option(help="Name of the data set.")] = "ml-100k",
    served: Annotated[
        bool,
        typer.Option(
            "--served", help="Serve the measured release on a stack of its own, and ask its edge."
        ),
    ] = False,
    lists: Annotated[
        Path | None,
        typer.Option(
            help="With --served: file that gets each viewer's 100 best as a line of JSON; "
            "served.jsonl beside the run's report if absent."
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="With --served: host:port of the edge of a running stack that serves a measured "
            "release and its features; a stack of its own is started if absent."
        ),
    ] = "",
    ca: CaOption = None,
    token: TokenOption = "",
    concurrency: Annotated[
        int, typer.Option(min=1, max=256, help="With --served: requests at a time.")
    ] = 8,
    deadline: Annotated[
        float, typer.Option(min=0.01, help="With --served: seconds for each request.")
    ] = 5.0,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="Measure beside every baseline, with intervals, paired tests and slices; "
            "beside popularity and EASE alone if absent.",
        ),
    ] = False,
    sources: Annotated[
        bool, typer.Option("--sources", help="Study what each candidate source finds.")
    ] = False,
    tune_quotas: Annotated[
        bool,
        typer.Option("--tune-quotas", help="Try shares of the sources on validation."),
    ] = False,
    tune_baselines: Annotated[
        bool,
        typer.Option(
            "--tune-baselines",
            help="Try the settings of every baseline on validation; evaluations use the best.",
        ),
    ] = False,
    diversity: Annotated[
        bool, typer.Option("--diversity", help="Study what diversity costs and gives.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Study the chain without a source or an input of the ranker; repeatable."
        ),
    ] = None,
    cold_start: Annotated[
        bool,
        typer.Option(
            "--cold-start", help="Study unseen viewers and videos, with towers trained for it."
        ),
    ] = False,
    check_leaks: Annotated[
        bool,
        typer.Option("--check-leaks", help="Check that no test watch has reached training."),
    ] = False,
    profile: Annotated[
        str, typer.Option(help="With --without, --cold-start, --diversity: settings to train with.")
    ] = "demo",
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="With --cold-start: longest training.")
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="Measure nothing; make the page of what was measured before."
        ),
    ] = False,
    page: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="With --report: file of the page; index.html in the run's report if absent.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure on each viewer's held-out watch, beside popularity and EASE."""
    from server.errors import VireoError
    from server.home import Home
    from training.evaluation import commands
    from training.evaluation.baselines.registry import BASELINES, QUICK
    from training.evaluation.studies import Studies
    from training.heartbeat import heartbeat
    from training.measuring import measuring_home

    # Nothing is held out from what is served: its measured twin is asked.
    home, errors = measuring_home(Home.current()), Console(stderr=True)
    if report:
        typer.echo(f"page: {commands.write_report_page(home, data, page)}")
        return
    if page is not None:
        raise VireoError(f"{page} is for the page: give --report too; data sets go by --data")
    studies = Studies(home, data, profile, errors)
    asked: dict[str, Callable[[], object]] = {
        name: study
        for name, wanted, study in (
            ("leaks", check_leaks, studies.leaks),
            ("sources", sources, studies.sources),
            ("quotas", tune_quotas, studies.quotas),
            ("baselines", tune_baselines, studies.baselines),
            ("diversity", diversity, studies.diversity),
            ("ablations", without, lambda: studies.ablations(without or [])),
            ("cold_start", cold_start, lambda: studies.cold_start(minutes)),
        )
        if wanted
    }
    if asked:
        with heartbeat(errors, f"studying {data}"):
            found = {name: study() for name, study in asked.items()}
        print_studies(found, as_json, home.run(data) / "report")
        return
    beside = BASELINES if baselines else QUICK
    if served:
        path = lists or home.run(data) / "report" / "served.jsonl"
        with (
            heartbeat(errors, f"evaluating {data}"),
            _asked_edge(home, data, target, ca, token) as edge,
        ):
            options = commands.ServedOptions(
                edge.target, path, concurrency, deadline, edge.credentials()
            )
            evaluated = commands.evaluate_served(home, data, options, errors, baselines=beside)
    elif lists is not None:
        raise VireoError("--lists writes what the stack answers: give --served too")
    else:
        with heartbeat(errors, f"evaluating {data}"):
            evaluated = commands.evaluate_staged(home, data, errors, baselines=beside)
    if as_json:
        typer.echo(json.dumps(commands.as_json(evaluated), indent=2))
        return
    _print(evaluated)
    if served:
        typer.echo(f"lists: {path}")
    if not served or evaluated.agreement:
        typer.echo(f"report: {home.run(data) / 'report' / 'index.html'}")


@contextmanager
def _asked_edge(
    home: Home, dataset: str, target: str, ca: Path | None, token: str
) -> Iterator[Edge]:
    """Yield the edge at `target`, or that of a stack that serves `home`'s release meanwhile."""
    from bench.stack import served_release

    if target:
        yield edge_of(target, ca, token)
        return
    with served_release(home, dataset) as own:
        yield edge_of(own, None, "")


def _print(evaluated: Evaluated) -> None:
    """Prints a line a system, then what else was found."""
    console = Console(highlight=False)
    title = f"{evaluated.release_id}: held-out watches, all unwatched videos ranked"
    columns = tuple(_COLUMNS.values())
    table = table_of("", *columns, numbers=columns, title=title)
    others = dict(evaluated.metrics)
    ranker = others.pop("ranker", None)
    for name, measures in others.items():
        last = name in ("chain", "served")
        style = "bold" if last else None
        table.add_row(name, *(f"{measures[column]:.3f}" for column in _COLUMNS), style=style)
    print_table(table, console)
    if ranker:
        names = {
            "auc": "AUC",
            "ece": "calibration error",
            "predicted_over_observed": "predicted over observed",
        }
        for task in ("watch", "like"):
            found = [
                f"{title} {ranker[f'{task}_{name}']:.4f}"
                for name, title in names.items()
                if f"{task}_{name}" in ranker
            ]
            console.print(f"ranker, {task}: {', '.join(found)}")
        console.print(f"candidates hold {ranker['candidate_recall']:.1%} of the held-out videos")
    if evaluated.answers:
        counted = ", ".join(
            f"{count} {name.replace('_', ' ')}" for name, count in evaluated.answers.items()
        )
        console.print(f"answers: {counted}")
    if evaluated.agreement:
        same, differing = evaluated.agreement.same_top_10, evaluated.agreement.differing_viewers
        console.print(f"same ten best as in process: {same:.2%} of viewers, {differing} differ")
