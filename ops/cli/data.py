"""`vireo data`: fetch, import, make up and show data sets."""

from __future__ import annotations

import asyncio
import shutil
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.options import (
    DataOption,
    DryRunOption,
    JsonOption,
    NewDataOption,
    RandomSeedOption,
    ReplaceOption,
    YesOption,
    confirm,
)
from vireo.ops.cli.output import print_json, print_table, progress_bar, remark, table_of
from vireo.ops.stack.nats import reachable_log
from vireo.ops.stack.state import running_stack
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import open_log, opened_log
from vireo.server.event_log.log import EVENTS, Position
from vireo.server.features.activity import USUAL_BOUNCE, Bounce
from vireo.server.home import Home
from vireo.training.data.dataset import DatasetInfo, LogPositions, describe_dataset, list_datasets
from vireo.training.data.from_events import data_from_events
from vireo.training.data.importing import ImportRequest, import_dataset
from vireo.training.data.movielens import fetch_movielens
from vireo.training.data.schema import AttributeColumn
from vireo.training.data.synth.world import WorldConfig
from vireo.training.data.synth.writing import write_world
from vireo.training.profile import estimate_import
from vireo.training.run import only_training

app = typer.Typer(no_args_is_help=True)

_Bounce = Annotated[
    Bounce | None,
    typer.Option(
        parser=Bounce.parse,
        metavar="FRACTION|SECONDSs",
        help="Plays of less than this fraction of a video, or of fewer seconds, as in 10s, are no "
        "watches: 0.05 by default, or as in the base; 0 for none.",
        show_default=False,
    ),
]


@app.command()
def synth(
    viewer_count: Annotated[int, typer.Option(help="Number of viewers.")] = 5_000,
    video_count: Annotated[int, typer.Option(help="Number of videos.")] = 10_000,
    event_count: Annotated[
        int | None,
        typer.Option(help="Number of plays, likes and hides; 40 per viewer if absent."),
    ] = None,
    seed: RandomSeedOption = None,
    days: Annotated[int, typer.Option(help="Number of days that the events span.")] = 90,
    context: Annotated[
        bool,
        typer.Option(
            "--context",
            help="Give events a device, a time zone and a locale, and viewers tastes by these.",
        ),
    ] = False,
    drift: Annotated[
        float, typer.Option(help="How many times as fast tastes change, up to 20; 0 for never.")
    ] = 1.0,
    repeats: Annotated[
        float, typer.Option(help="Share of events of videos that the viewer comes back to.")
    ] = 0.0,
    data: NewDataOption = "synth",
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Generate a synthetic data set of viewers, videos and interactions, of any size.

    Few videos draw most of the watches; each has a topic, and episodes follow each other in
    series. Viewers like a few topics each, mostly of their own region, and their tastes drift
    over the weeks. Titles, tags and the viewers' countries carry signal for models to learn. The
    result is used like an imported data set:

    vireo data synth --viewer-count 2000 --video-count 5000 && vireo train

    A million videos, for the bench profile (minutes, 400 MB of memory):

    vireo data synth --data million --viewer-count 200000 --video-count 1000000
    """
    count = 40 * viewer_count if event_count is None else event_count
    config = WorldConfig(viewer_count, video_count, count, seed or 0, days, context, drift, repeats)
    with progress_bar("events", config.events) as show:
        info = write_world(Home.current(), data, config, force=replace, progress=show)
    _print(info, as_json)


@app.command()
def fetch(
    data: Annotated[str, typer.Argument(metavar="NAME", help="ml-100k or ml-1m.")],
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Download MovieLens and import it, unless it is here already.

    vireo data fetch ml-100k
    """
    errors = Console(stderr=True, highlight=False)
    with errors.status(f"fetching {data}"):
        info, fetched = fetch_movielens(Home.current(), data, replace)
    if not fetched:
        remark(f"{data} is here already.")
    _print(info, as_json)
    errors.print(info.terms, style="dim")


@app.command("import")
def import_(
    interactions: Annotated[
        Path, typer.Option(help="Who watched what when: CSV or Parquet.", show_default=False)
    ],
    videos: Annotated[Path, typer.Option(help="The catalogue.", show_default=False)],
    viewer_attributes: Annotated[
        Path | None, typer.Option(help="Attributes of viewers, if there are any.")
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=COLUMN][:number]",
            help="Declare an attribute of videos for filters, from a column of the same name "
            "unless one is given; once for each.",
            show_default=False,
        ),
    ] = None,
    bounce: _Bounce = None,
    rating_scale: Annotated[
        float | None,
        typer.Option(help="The best rating; by default 5, 10 or 100, as the ratings are.", min=1),
    ] = None,
    log_lag: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=366 * 86_400,
            help="The files have all that the log received until so long before their last "
            "interaction, so that builds of features read the log from there; not for a sample.",
            show_default=False,
        ),
    ] = None,
    data: NewDataOption = "mine",
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Drop and count bad rows.")
    ] = False,
    replace: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import your own data; docs/data.md describes the files.

    Requests can be filtered by tag, creator, published and duration of the videos, and by the
    attributes that --attribute declares. A video has any number of labels of one: a list, or text
    with | between them, for example CH|DE. With :number it has a number, to compare by bounds.

    vireo data import --interactions watched.csv --videos videos.csv

    vireo data import … --attribute language --attribute region=countries --attribute age:number
    """
    console = Console(stderr=True)
    attributes = tuple(AttributeColumn.parse(text) for text in attribute or ())
    request = ImportRequest(
        data,
        interactions,
        videos,
        viewer_attributes,
        skip_bad_rows,
        replace,
        attributes,
        bounce or USUAL_BOUNCE,
        rating_scale,
    )
    size, memory = estimate_import(request)
    console.print(f"{data}: {size}: {memory}", highlight=False, markup=False)
    with console.status("checking and importing"):
        positions = None if log_lag is None else partial(_positions_in_log, log_lag)
        info = import_dataset(Home.current(), request, positions)
    _print(info, as_json)


def _positions_in_log(lag: float, last: float) -> LogPositions:
    settings = reachable_log()

    async def find() -> Position:
        async with opened_log(settings) as event_log:
            return await event_log.position_at(EVENTS, last - lag)

    position, partitions = asyncio.run(find()), range(settings.event_partitions)
    if not position.sequence:
        remark("the log doesn't have all since then, so builds of features read all of it")
    return LogPositions(partitions=dict.fromkeys(partitions, position))


@app.command("from-events")
def from_events(
    data: NewDataOption = "mine",
    base: Annotated[
        str | None,
        typer.Option(help="The data set to begin with; may be the one that is replaced."),
    ] = None,
    replace: ReplaceOption = False,
    accept_gap: Annotated[
        bool,
        typer.Option("--accept-gap", help="Go on without events that the log keeps no longer."),
    ] = False,
    bounce: _Bounce = None,
    as_json: JsonOption = False,
) -> None:
    """Make a data set of the events and the catalogue's changes in the log, up to now.

    vireo data from-events --base mine --replace
    """
    home = Home.current()
    settings = reachable_log()
    event_log = open_log(settings)
    assert event_log is not None
    with progress_bar("messages of the log") as show:
        info = data_from_events(
            home,
            data,
            base,
            event_log,
            settings.event_partitions,
            force=replace,
            accept_gap=accept_gap,
            bounce=bounce,
            progress=show,
        )
    _print(info, as_json)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the data sets of this home.

    vireo data list
    """
    infos = list_datasets(Home.current())
    if as_json:
        print_json(infos)
        return
    if not infos:
        remark("no data sets yet; get one with: vireo data fetch ml-100k")
        return
    numbers = ("interactions", "videos", "viewers")
    table = table_of("data set", *numbers, "from", "to", numbers=numbers)
    for info in infos:
        counts = (f"{count:,}" for count in (info.interactions, info.videos, info.viewers))
        table.add_row(info.name, *counts, f"{info.first:%Y-%m-%d}", f"{info.last:%Y-%m-%d}")
    print_table(table)


@app.command()
def show(data: DataOption = "", as_json: JsonOption = False) -> None:
    """Show the contents of a data set, and what the import repaired or dropped.

    vireo data show --data ml-100k
    """
    info = describe_dataset(Home.current(), data)
    if as_json:
        print_json(info)
        return
    table = Table(show_header=False)
    declared = ", ".join(f"{name} ({kind})" for name, kind in info.attributes.items())
    events = ", ".join(f"{count:,} {event}" for event, count in info.events.items())
    for label, value in (
        ("data set", info.name),
        ("source", info.source),
        ("interactions", f"{info.interactions:,} ({events})"),
        ("videos", f"{info.videos:,}"),
        ("viewers", f"{info.viewers:,}"),
        ("attributes", declared or "none declared"),
        ("from", f"{info.first:%Y-%m-%d %H:%M:%S} UTC"),
        ("to", f"{info.last:%Y-%m-%d %H:%M:%S} UTC"),
        ("problems", "\n".join(f"{n:,} {what}" for what, n in info.problems.items()) or "none"),
        *([("terms", info.terms)] if info.terms else []),
        ("fingerprint", info.fingerprint),
    ):
        table.add_row(label, Text(value))
    Console().print(table)


@app.command()
def rm(
    data: Annotated[
        str, typer.Option("--data", metavar="NAME", help="The data set.", show_default=False)
    ],
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a data set with its features, trainings and staged release.

    Its published releases stay in S3, but gateways can't serve them without its features. Rows of
    its viewers in Redis expire.

    vireo data rm --data synth
    """
    home = Home.current()
    kept = [place(data) for each in (home, home.measuring) for place in (each.features, each.run)]
    folders = [folder for folder in (home.data(data), *kept) if folder.exists()]
    if not folders:
        raise VireoError(f"there is nothing of a data set {data} in {home.root}")
    state = None if dry_run else running_stack(home)
    if state is not None and home.features(data) in folders:
        raise VireoError(
            f"a stack runs on {home.root} (process {state.pid}), and may serve by these features; "
            "end it first, with: vireo down"
        )
    for folder in folders:
        remark(f"to remove: {folder}")
    if not dry_run:
        confirm(f"remove data set {data} from {home.root}?", yes=yes)
        with only_training(home, data):
            for folder in folders:
                shutil.rmtree(folder)
    if as_json:
        print_json({"dataset": data, "folders": folders, "removed": not dry_run})
    elif not dry_run:
        typer.echo(f"removed data set {data}")


def _print(info: DatasetInfo, as_json: bool) -> None:
    """Print a line with the size of a data set, and what its import repaired or dropped."""
    if as_json:
        print_json(info)
        return
    typer.echo(
        f"{info.name}: {info.interactions:,} interactions of {info.viewers:,} viewers "
        f"with {info.videos:,} videos."
    )
    for what, count in info.problems.items():
        typer.echo(f"  {count:,} {what}")
