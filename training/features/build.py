"""Feature build: split, offline tables, registry and online store of a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn

from vireo.server.arrays import Int64Array
from vireo.server.errors import VireoError
from vireo.server.event_log.position import Position
from vireo.server.features.activity import HIDDEN_LIMIT, Bounce, EventRules
from vireo.server.features.keys import video_keys
from vireo.server.features.online_store import open_features, open_rows
from vireo.server.home import Home
from vireo.training.data.dataset import describe_dataset, load_dataset
from vireo.training.data.schema import HIDE_EVENTS, TIME
from vireo.training.data.split import LIKED_FRACTION, Holdout, hidden_videos, split_watches
from vireo.training.features.activity import write_viewer_activity, write_viewer_profile
from vireo.training.features.catch_up import STORE_SECONDS, catch_up
from vireo.training.features.definitions import (
    ONLINE_VIEWS,
    consumer_position,
    file_schema,
    viewer_hidden,
)
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.training.features.replaced_build import replaced_build
from vireo.training.features.repository import (
    apply_definitions,
    fill_online,
    write_configuration,
)
from vireo.training.features.statistics import write_video_statistics
from vireo.training.features.watches import HIDDEN, Split, write_watches
from vireo.training.progress import Bars

_MICROS = 1_000_000
_EPOCH = 0
Progress = Callable[[str, int, int], None]
"""Called with a step, the number of its units done, and their total."""


def write_viewer_hidden(interactions: pd.DataFrame, path: Path) -> None:
    """Write one row for each viewer who has hidden a video, valid from the last hide on.

    A video counts from the first time that it was hidden; the last HIDDEN_LIMIT are kept.
    """
    hides = interactions[interactions["event"].isin(HIDE_EVENTS).to_numpy()]
    viewer, viewers = pd.factorize(hides["viewer_id"])
    video, videos = pd.factorize(hides["video_id"])
    seconds = hides["timestamp"].to_numpy("datetime64[s]").astype(np.int64)
    keys = video_keys(list(videos))[video] if len(videos) else np.zeros(0, np.int64)
    by_time = np.lexsort((keys, seconds, viewer))
    pairs = pd.DataFrame({"viewer": viewer[by_time], "key": keys[by_time]})
    first = by_time[~pairs.duplicated().to_numpy()]
    # Of each viewer's, the last HIDDEN_LIMIT.
    later = _counted_from_the_end(viewer[first], len(viewers))
    kept = first[later < HIDDEN_LIMIT]
    counts = np.bincount(viewer[kept], minlength=len(viewers))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    last = np.zeros(len(viewers), np.int64)
    np.maximum.at(last, viewer, seconds)
    columns = [
        pa.array(list(viewers), pa.string()),
        pa.array((last + 1) * _MICROS, TIME),
        pa.ListArray.from_arrays(offsets, pa.array(keys[kept])),
        pa.ListArray.from_arrays(offsets, pa.array(seconds[kept])),
    ]
    table = pa.Table.from_arrays(columns, schema=file_schema(viewer_hidden))
    pq.write_table(table, path, compression="zstd")


def _counted_from_the_end(groups: Int64Array, count: int) -> Int64Array:
    """Return how many later places each place's group has, int64[n]; `groups` is sorted."""
    ends = np.cumsum(np.bincount(groups, minlength=count))
    return np.asarray(ends[groups] - 1 - np.arange(len(groups)), np.int64)


def not_seen(interactions: pd.DataFrame, seconds: float) -> pa.Array:
    """Return the viewers without an interaction in the last seconds before the last one of all."""
    last = interactions.groupby("viewer_id", observed=True)["timestamp"].max()
    age = (last.max() - last).dt.total_seconds()
    return pa.array(list(age.index[age > seconds]), pa.string())


def write_consumer_position(positions: Mapping[int, Position], path: Path) -> None:
    """Write up to where in the log each partition's events are in the data set."""
    columns = [
        pa.array([str(partition) for partition in positions], pa.string()),
        pa.array([_EPOCH] * len(positions), TIME),
        pa.array([str(each) for each in positions.values()], pa.string()),
    ]
    schema = file_schema(consumer_position)
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path, compression="zstd")


def _silent(_step: str, _done: int, _total: int) -> None:
    pass


def build_features(
    home: Home,
    name: str,
    holdout: Holdout = "last",
    progress: Progress = _silent,
    settings: OnlineStoreSettings | None = None,
) -> None:
    """Build the features of a data set, atomically replacing any earlier ones.

    `progress` is called as each step progresses; `settings` are those of the online store, this
    process's if None.

    Raises:
        DatasetMissingError: there is no such data set.
        VireoError: it has no watches, or writing to disk or to the online store fails.
    """
    settings = settings or OnlineStoreSettings.current()
    info, target = describe_dataset(home, name), home.features(name)
    with replaced_build(target, settings) as (folder, project):
        dataset = load_dataset(home, name)
        progress("split", 0, 1)
        watches = split_watches(dataset.interactions, holdout)
        write_watches(watches, folder / "watches.parquet")
        if holdout == "last":  # Only the ranker reads them, and it is trained on this split.
            write_watches(hidden_videos(dataset.interactions, watches), folder / HIDDEN)
        # Hides may come after a held-out watch, and nothing that is measured reads them.
        hides = dataset.interactions[: None if holdout == "none" else 0]
        write_viewer_hidden(hides, folder / "viewer_hidden.parquet")
        # An example may span years, and is to be served whole.
        expiry = math.inf if info.terms else settings.viewer_expiry
        left_out = not_seen(hides, expiry)
        del hides
        EventRules(liked_fraction=LIKED_FRACTION, bounce=info.bounce or Bounce()).write(folder)
        positions = info.log_positions.partitions
        write_consumer_position(positions, folder / "consumer_position.parquet")
        watches = watches[watches["part"] != "test"]
        if watches.empty:
            raise VireoError(
                f"data set {name} has no watches to train on; "
                "import interactions whose event is play or like"
            )
        Split.of(holdout, dataset.info.fingerprint).write(folder)
        progress("split", 1, 1)
        first = watches["time"].min().to_pydatetime() - timedelta(seconds=1)
        write_viewer_profile(dataset.viewers, first, folder / "viewer_profile.parquet")
        step = partial(progress, "viewer activity")
        write_viewer_activity(watches, first, folder / "viewer_activity.parquet", step)
        step = partial(progress, "video statistics")
        table = folder / "video_statistics.parquet"
        write_video_statistics(watches, dataset.videos, table, step)
        del watches, dataset  # Frees memory: filling the store needs neither.
        write_configuration(folder, project, settings)
        apply_definitions(open_features(folder))
        with closing(open_rows(folder, STORE_SECONDS, settings.redis, announced=False)) as rows:
            for position, view in enumerate(ONLINE_VIEWS):
                progress("online store", position, len(ONLINE_VIEWS))
                fill_online(rows, view, folder / f"{view}.parquet", left_out)
        if holdout == "none":  # what is measured must not know of later events, and isn't served
            catch_up(home, folder, target, settings)
        progress("online store", len(ONLINE_VIEWS), len(ONLINE_VIEWS))


@contextmanager
def progress_bars(console: Console) -> Iterator[Progress]:
    """Yield the progress callback for `build_features`, with one bar per step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=console) as bars:
        steps: dict[str, TaskID] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in steps:
                steps[step] = bars.add_task(step, total=total)
            bars.update(steps[step], completed=done)

        yield progress
