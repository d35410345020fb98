"""`vireo features`: build and show features in Feast."""

from __future__ import annotations

from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.options import DataOption, JsonOption, ViewerArgument
from vireo.ops.cli.output import print_json, print_result, print_table, remark, table_of
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
def build(data: DataOption = "", as_json: JsonOption = False) -> None:
    """Build the features for serving, as of now, replacing any earlier ones.

    Measuring on held-out watches uses separate features, which `vireo train` builds.

    vireo features build --data mine
    """
    home, console = Home.current(), Console(stderr=True, highlight=False)
    need = features_memory(describe_dataset(home, data))
    console.print(f"{data}: {need}", soft_wrap=True)
    with heartbeat(console, f"features of {data}"), progress_bars(console) as progress:
        build_features(home, data, "none", progress)
    if running_stack(home) is not None:
        remark("the stack that is running reads them from now on")
    document = {"dataset": data, "folder": home.features(data)}
    print_result(document, f"{data}: features built from every event", as_json)


@app.command()
def show(viewer: ViewerArgument, data: DataOption = "", as_json: JsonOption = False) -> None:
    """Show a viewer's values in the online store.

    vireo features show 1
    """
    home = Home.current()
    found = read_viewer(home.features(data), viewer)
    ids = dict[int, str]()
    if found.watch_count or found.hidden_keys:
        videos = load_dataset(home, data).videos
        known = videos["video_id"].tolist()
        ids = dict(zip(video_keys(known).tolist(), known, strict=True))
    # A video that came since the data set was made is shown by its key.
    history_ids = [ids.get(key, str(key)) for key in found.history_keys]
    hidden_ids = [ids.get(key, str(key)) for key in found.hidden_keys]
    if as_json:
        shown = {
            "viewerId": viewer,
            "historyIds": history_ids,
            "hiddenIds": hidden_ids,
            "attributes": [*found.attributes],
            "historyTimes": [*found.history_times],
            "watchedKeys": [*found.watched_keys],
            "viewerWatchCount": found.watch_count,
            "viewerLikeCount": found.like_count,
            "hiddenKeys": [*found.hidden_keys],
            "hiddenTimes": [*found.hidden_times],
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
