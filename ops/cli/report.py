"""`vireo report`: what viewers did with what they were shown, from the archive."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import pyarrow.compute as pc
import typer

from vireo.ops.cli.archive import ArchiveOption, LastOption, archived, time_of
from vireo.ops.cli.options import JsonOption
from vireo.ops.cli.output import print_json, print_table, remark, table_of
from vireo.server.errors import VireoError
from vireo.training.data.shown import WINDOW_SECONDS, shown_videos
from vireo.training.evaluation import traffic as measured
from vireo.training.evaluation.traffic import DIMENSIONS, Group, Rate, Traffic, write_metrics

_RATES = ("plays", "watch s", "likes/1000", "hides/1000")
"""Titles of the rates, per impression unless they say otherwise."""

app = typer.Typer(no_args_is_help=True)


@app.command()
def traffic(
    last: LastOption = "",
    by: Annotated[
        str, typer.Option(metavar="NAMES", help="What to report by, separated by commas.")
    ] = ",".join(DIMENSIONS),
    archive: ArchiveOption = None,
    metrics_file: Annotated[
        Path | None,
        typer.Option(help="File to write for Prometheus: a *.prom in node_exporter's folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report what viewers did with the videos of slates, per impression, with 95% intervals.

    Gateways record the slates of VIREO_SLATE_SHARE of the viewers. An event belongs to the slate of
    its request_id; without one, to the latest slate that showed its video to its viewer, a day
    before at most. Without --last, the report is of the last 24 hours, or of all in --archive.

    vireo report traffic --last 7d --by source,position
    """
    names = by.split(",")
    if unknown := [name for name in names if name not in DIMENSIONS]:
        raise typer.BadParameter(f"--by has {unknown[0]}, which is none of {', '.join(DIMENSIONS)}")
    if metrics_file and not metrics_file.parent.is_dir():
        raise VireoError(f"{metrics_file.parent} is no folder; make it, or name another file")
    since = time_of(last or ("" if archive else "24h"))
    # The first events belong to slates before.
    begin = since and since - timedelta(seconds=WINDOW_SECONDS)
    with archived(archive, begin, "slates", "events") as files:
        shown = shown_videos(files["slates"], files["events"])
    if since:
        shown = shown.filter(pc.greater_equal(shown["answered_at"], since))
    if not len(shown):
        raise VireoError(
            f"{archive or 'the archive'} has no slates of this time; set VIREO_SLATE_SHARE=1 on "
            "gateways to record those of all viewers, or choose a longer time with --last"
        )
    report = measured.traffic(shown, names)
    if metrics_file:
        write_metrics(report, metrics_file)
        remark(f"metrics: {metrics_file}")
    print_json(report) if as_json else _print(report)


def _print(report: Traffic) -> None:
    """Print a line for all, then a table with a section for each dimension."""
    typer.echo(
        f"{report.slates:,} slates, {report.first:%Y-%m-%d %H:%M} to {report.last:%Y-%m-%d %H:%M} "
        f"UTC, {report.total.viewers:,} viewers"
    )
    if not report.impressions_reported:
        typer.echo("no event is an impression: every video shown counts as one")
    elif report.plays_without_impression:
        typer.echo(f"{report.plays_without_impression:,} plays without an impression left out")
    columns = ("impressions", *_RATES, "played/shown")
    table = table_of("", *columns, numbers=columns, tight=True)
    for dimension, groups in {"": [report.total], **report.by}.items():
        if dimension:
            table.add_row()
            table.add_row(f"by {dimension}", style="bold")
        for group in groups:
            table.add_row(*_cells(group))
    print_table(table)


def _cells(group: Group) -> list[str]:
    rates = [_shown(rate) for rate in group.rates.values()] or ["-"] * len(_RATES)
    videos = f"{group.videos_played:,}/{group.videos_shown:,}"
    return [group.value, f"{group.impressions:,}", *rates, videos]


def _shown(rate: Rate) -> str:
    """Return a rate with half of its interval, to the first digit of that."""
    half = rate.high - rate.value if rate.high is not None else 0.0
    decimals = max(0, -math.floor(math.log10(half))) if half else 3
    return f"{rate.value:,.{decimals}f}" + (f" ±{half:,.{decimals}f}" if half else "")
