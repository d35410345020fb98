"""`vireo features`: build and show features in Feast."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.output import AsJson, print_json, print_table, table_of
from vireo.ops.stack.state import running_stack
from vireo.server.features.keys import video_keys
from vireo.server.features.online_store import read_viewer
from vireo.server.home import Home
from vireo.training.data.dataset import describe_dataset, load_dataset
from vireo.training.features.build import build_features, progress_bars
from vireo.training.profile import features_memory
from vireo.training.progress import heartbeat

app = typer.Typer(no_args_is_help=True)


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="Which data set.")],
) -> None:
    """Build the features for serving, as of now, replacing any earlier ones.

    Measuring on held-out watches uses separate features, which `vireo train` builds.
    """
    home, console = Home.current(), Console()
    need = features_memory(describe_dataset(home, name))
    console.print(f"{name}: {need}", highlight=False, soft_wrap=True)
    with heartbeat(console, f"features of {name}"), progress_bars(console) as progress:
        build_features(home, name, "none", progress)
    console.print(f"{name}: features built from every event.", highlight=False)
    if running_stack(home) is not None:
        console.print("The stack that is running reads them from now on.", highlight=False)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Which data set.")],
    viewer: Annotated[str, typer.Option(help="Id of the viewer.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show a viewer's values in the online store."""
    home = Home.current()
    found = read_viewer(home.features(name), viewer)
    ids = dict[int, str]()
    if found.watch_count or found.hidden_keys:
        videos = load_dataset(home, name).videos
        known = videos["video_id"].tolist()
        ids = dict(zip(video_keys(known).tolist(), known, strict=True))
    # A video that came since the data set was made is shown by its key.
    history_ids = [ids.get(key, str(key)) for key in found.history_keys]
    hidden_ids = [ids.get(key, str(key)) for key in found.hidden_keys]
    if as_json:
        shown = {
            "viewer_id": viewer,
            "history_ids": history_ids,
            "hidden_ids": hidden_ids,
            "attributes": [*found.attributes],
            "history_times": [*found.history_times],
            "watched_keys": [*found.watched_keys],
            "viewer_watch_count": found.watch_count,
            "viewer_like_count": found.like_count,
            "hidden_keys": [*found.hidden_keys],
            "hidden_times": [*found.hidden_times],
        }
        print_json(shown)
        return
    console = Console()
    if not (found.watch_count or found.attributes or found.hidden_keys):
        console.print(Text(f"Viewer {viewer} is unknown: a cold start."))
        return
    summary = Table(show_header=False)
    summary.add_row("viewer", Text(viewer))
    summary.add_row("attributes", Text(", ".join(found.attributes) or "none"))
    summary.add_row("watched", f"{found.watch_count:,}")
    summary.add_row("liked", f"{found.like_count:,}")
    summary.add_row("hidden", f"{len(found.hidden_keys):,}")
    console.print(summary)
    if not ids:
        return
    titles = dict(zip(videos["video_id"], videos["title"], strict=True))
    history = table_of("watched last", "video", "title", texts={"title"})
    latest = list(zip(history_ids, found.history_times, strict=True))[:-11:-1]
    for video_id, time in latest:
        when = f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S}"
        history.add_row(when, Text(video_id), Text(titles.get(video_id, "")))
    print_table(history, console)
