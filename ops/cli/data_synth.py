"""`vireo data synth`: a synthetic data set of any size, to try Vireo out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vireo.server.home import Home

if TYPE_CHECKING:
    from vireo.training.data.dataset import DatasetInfo


def synth(
    viewers: Annotated[int, typer.Option(help="Number of viewers.")] = 5_000,
    videos: Annotated[int, typer.Option(help="Number of videos.")] = 10_000,
    events: Annotated[
        int | None,
        typer.Option(help="Number of plays, likes and hides; 40 per viewer if absent."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Random seed; the same seed and sizes give the same data.")
    ] = 0,
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
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "synth",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a data set of that name.")
    ] = False,
) -> None:
    """Generate a synthetic data set of viewers, videos and interactions, of any size.

    Few videos draw most of the watches; each has a topic, and episodes follow each other in
    series. Viewers like a few topics each, mostly of their own region, and their tastes drift
    over the weeks. Titles, tags and the viewers' countries carry signal for models to learn. The
    result is used like an imported data set:

    vireo data synth --viewers 2000 --videos 5000 && vireo train --data synth

    A million videos, for the bench profile (minutes, 400 MB of memory):

    vireo data synth --viewers 200000 --videos 1000000 --events 10000000 --name million
    """
    from vireo.training.data.synth.world import WorldConfig
    from vireo.training.data.synth.writing import write_world

    count = 40 * viewers if events is None else events
    config = WorldConfig(viewers, videos, count, seed, days, context, drift, repeats)
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("events", total=config.events)
        info = write_world(
            Home.current(),
            name,
            config,
            force=force,
            progress=lambda done, _total: bars.update(task, completed=done),
        )
    console.print(summary(info), highlight=False)


def summary(info: DatasetInfo) -> str:
    """Return a line with the size of a data set."""
    return (
        f"{info.name}: {info.interactions:,} interactions of {info.viewers:,} viewers "
        f"with {info.videos:,} videos."
    )
