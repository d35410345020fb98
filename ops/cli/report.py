"""`vireo report`: what viewers did with what they were shown, from the archive."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import pyarrow.compute as pc
import typer

from vireo.ops.cli.archive import ArchiveOption, LastOption, archived, time_of
from vireo.ops.cli.options import DataOption, JsonOption
from vireo.ops.cli.output import print_json, print_table, remark, table_of
from vireo.ops.cli.replay import counted, loaded_releases, refuse, releases_of, slates_of
from vireo.ops.stack.s3 import open_store
from vireo.server.consumer.archived_rows import Row
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.manifest import Manifest
from vireo.training.data.dataset import describe_dataset
from vireo.training.data.shown import WINDOW_SECONDS, shown_videos
from vireo.training.evaluation import traffic as measured
from vireo.training.evaluation.input_skew import Distribution, distributions
from vireo.training.evaluation.replay import Replayer, replayed
from vireo.training.evaluation.traffic import DIMENSIONS, Group, Rate, Traffic, write_metrics
from vireo.training.evaluation.viewer_skew import OfflineViewers, not_comparable, viewer_difference
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.training.features.watches import Split
from vireo.training.ranking.training_set import load_ranking_set
from vireo.training.run import Run

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


@app.command()
def skew(
    data: DataOption = "",
    last: LastOption = "",
    sample: Annotated[
        int, typer.Option(min=1, help="Maximum slates; of more, evenly many of all the time.")
    ] = 1_000,
    archive: ArchiveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the features of slates with those that are computed offline, and trained on.

    A viewer's features must be those of the data set's feature build with the events of the archive
    since then, and what was made of them must be what `vireo replay` makes. Each difference is
    named with both values, and the command fails. Then features of candidates and viewers are
    compared with their distributions in training, if the newest release of this home answered.

    vireo report skew --last 6h
    """
    home = Home.current()
    Split.load(home, data)  # raises an error that says how features are built
    since = time_of(last or ("" if archive else "24h"))
    with (
        archived(archive, since, "slates") as slates,
        archived(archive, None, "events") as events,
        open_store() as store,
    ):
        rows = slates_of(slates["slates"], "", since, sample)
        releases = loaded_releases(store, {name for row in rows for name in releases_of(row)})
        names = {row["viewer_id"] for row in rows}
        # An example may span years, and is served whole.
        example = describe_dataset(home, data).terms
        expiry = math.inf if example else OnlineStoreSettings.load().viewer_expiry
        viewers = OfflineViewers(home.features(data), events["events"], names, expiry)
        others = {
            name
            for name, each in releases.items()
            if each.retrieval.release.manifest.dataset != data
        }
        reasons = [
            "its release is of another data set"
            if others & releases_of(row)
            else not_comparable(row, viewers)
            for row in rows
        ]
        own = [row for row, reason in zip(rows, reasons, strict=True) if not reason]
        differences = [
            found for row in counted("comparing", own) if (found := viewer_difference(row, viewers))
        ]
        made = [replayed(row, releases) for row in counted("replaying", rows)]
    differences += [each.difference for each in made if each.difference is not None]
    inputs = _inputs(home, data, rows, releases)
    skipped = Counter(filter(None, reasons))
    not_made = Counter(each.skipped for each in made if each.skipped)
    if as_json:
        counts = {"slates": len(rows), "notComparable": skipped, "notReplayed": not_made}
        print_json({**counts, "differences": differences, "inputs": inputs})
    else:
        typer.echo(f"{len(own):,} of {len(rows):,} slates: viewers compared")
        for reason, number in skipped.items():
            typer.echo(f"{number:,} can't be: {reason}")
        for reason, number in not_made.items():
            typer.echo(f"{number:,} can't be made again: {reason}")
        _print_skew(inputs)
    refuse(differences)
    if not own:
        raise VireoError("no slate's viewer could be compared; the reasons are above")


def _inputs(
    home: Home, data: str, rows: Sequence[Row], releases: Mapping[str, Replayer]
) -> list[Distribution]:
    """Return the inputs of the newest release of a data set, if it answered any of the slates."""
    run = Run(home.measuring.run(data))
    try:
        release_id = Manifest.read(home.trained_release(data)).release_id
    except VireoError:
        return []
    own = [row for row in rows if row["release_id"] == release_id and row["recorded"]]
    trained = load_ranking_set(run.ranking_set, run.finished_inputs())
    if not own or release_id not in releases or trained is None:
        return []
    return distributions(own, releases[release_id].retrieval.release, trained.watches)


def _print_skew(inputs: Sequence[Distribution]) -> None:
    """Print the inputs, those first whose distribution is the least like that of training."""
    if not inputs:
        typer.echo(
            "none is of the newest release that was trained here: no distributions to compare"
        )
        return
    columns = ("trained", "served", "stability")
    table = table_of("input", *columns, "", numbers=columns, texts={"input"})
    for each in sorted(inputs, key=lambda each: -each.stability):
        figures = (f"{value:.3g}" for value in (each.trained, each.served, each.stability))
        table.add_row(each.feature, *figures, "shifted" if each.shifted else "")
    print_table(table)


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
