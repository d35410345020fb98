"""Feature build: split, offline tables, registry and online store of a data set."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn

from vireo.ops.stack.nats import known_log
from vireo.server.consumer.apply import apply, keep
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog, opened_log
from vireo.server.event_log.log import BEGIN, EVENTS, LogAwayError
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.activity import Bounce, EventRules
from vireo.server.features.online_store import open_rows
from vireo.server.features.viewer_rows import ViewerRow
from vireo.server.features.viewer_store import ViewerStore
from vireo.server.home import Home
from vireo.training.data.dataset import describe_dataset, load_dataset
from vireo.training.data.split import LIKED_FRACTION, Holdout, hidden_videos, split_watches
from vireo.training.features.definitions import (
    ONLINE_VIEWS,
    apply_definitions,
    consumer_position,
    fill_online,
    viewer_followed,
    write_configuration,
    write_view,
)
from vireo.training.features.online_store import OnlineStoreSettings, replaced_build
from vireo.training.features.statistics import write_video_statistics
from vireo.training.features.viewers import (
    write_viewer_activity,
    write_viewer_hidden,
    write_viewer_profile,
    write_viewer_shown,
)
from vireo.training.features.watches import HIDDEN, Split, write_watches
from vireo.training.progress import Bars

_log = structlog.get_logger(__name__)

_STORE_SECONDS = 60.0
"""Maximum seconds to wait for the online store."""
_ROUNDS = 3
"""How often to read what has come meanwhile. The consumer applies the rest."""
_EPOCH = 0
Progress = Callable[[str, int, int], None]
"""Called with a step, the number of its units done, and their total."""


def not_seen(interactions: pd.DataFrame, seconds: float) -> pa.Array:
    """Return the viewers without an interaction in the last seconds before the last one of all."""
    last = interactions.groupby("viewer_id", observed=True)["timestamp"].max()
    age = (last.max() - last).dt.total_seconds()
    return pa.array(list(age.index[age > seconds]), pa.string())


def build_features(
    home: Home,
    name: str,
    holdout: Holdout = "last",
    progress: Progress = lambda _step, _done, _total: None,
    settings: OnlineStoreSettings | None = None,
) -> None:
    """Build the features of a data set, atomically replacing any earlier ones.

    `progress` is called as each step progresses; `settings` are those of the online store, this
    process's if None.

    Raises:
        DatasetMissingError: there is no such data set.
        VireoError: it has no watches, or writing to disk or to the online store fails.
    """
    settings = settings or OnlineStoreSettings.load()
    info, target = describe_dataset(home, name), home.features(name)
    with replaced_build(target, settings) as (folder, project):
        dataset = load_dataset(home, name)
        progress("split", 0, 1)
        watches = split_watches(dataset.interactions, holdout)
        write_watches(watches, folder / "watches.parquet")
        if holdout == "last":  # Only the ranker reads them, and it is trained on this split.
            write_watches(hidden_videos(dataset.interactions, watches), folder / HIDDEN)
        # Hides may come after a held-out watch, and nothing that is measured reads them; no more do
        # impressions.
        served = dataset.interactions[: None if holdout == "none" else 0]
        write_viewer_hidden(served, folder)
        write_viewer_shown(served, folder)
        write_view(folder, viewer_followed)  # data sets don't have whom viewers follow
        # An example may span years, and is to be served whole.
        expiry = math.inf if info.terms else settings.viewer_expiry
        left_out = not_seen(served, expiry)
        del served
        EventRules(liked_fraction=LIKED_FRACTION, bounce=info.bounce or Bounce()).write(folder)
        # Up to where in the log each partition's events are in the data set.
        at = {str(number): str(each) for number, each in info.log_positions.partitions.items()}
        write_view(folder, consumer_position, [*at], [_EPOCH] * len(at), [*at.values()])
        watches = watches[watches["part"] != "test"]
        if watches.empty:
            raise VireoError(
                f"data set {name} has no watches to train on; "
                "import interactions whose event is play or like"
            )
        Split.of(holdout, dataset.info.fingerprint).write(folder)
        progress("split", 1, 1)
        first = watches["time"].min().to_pydatetime() - timedelta(seconds=1)
        write_viewer_profile(dataset.viewers, first, folder)
        write_viewer_activity(watches, folder)
        step = partial(progress, "video statistics")
        table = folder / "video_statistics.parquet"
        write_video_statistics(watches, dataset.videos, table, step)
        del watches, dataset  # Frees memory: filling the store needs neither.
        write_configuration(folder, project, settings)
        apply_definitions(folder)
        with closing(open_rows(folder, _STORE_SECONDS, settings.redis, announced=False)) as rows:
            for position, view in enumerate(ONLINE_VIEWS):
                progress("online store", position, len(ONLINE_VIEWS))
                fill_online(rows, folder, view, left_out)
            # What is measured must not know of later events, and isn't served.
            if holdout == "none":
                _catch_up(home, rows, target, settings)
        progress("online store", len(ONLINE_VIEWS), len(ONLINE_VIEWS))


def _catch_up(home: Home, rows: ViewerStore, replaced: Path, store: OnlineStoreSettings) -> None:
    """Add what the features that are replaced keep, and apply the log's events if it is there.

    Args:
        home: whose stack's log it is, unless the settings name one.
        rows: those of the new features.
        replaced: folder of those that they will replace, if there are any.
        store: where the rows are, and after how long viewers who weren't seen are forgotten.

    Raises:
        VireoError: the online store of the new features can't be written, or a setting is invalid.
    """
    settings = known_log(home)
    try:
        old = open_rows(replaced, _STORE_SECONDS, store.redis) if replaced.exists() else None
    except VireoError as error:  # of an earlier version, for example, which had no hides
        _log.warning("hides_not_kept", features=str(replaced), reason=str(error))
        old = None
    if old is not None:
        # The log may not have it any more, and a data set has no follows. Not of viewers of whom
        # the data set has nothing recent, and who weren't seen since.
        since = time.time() - store.viewer_expiry
        with closing(old):
            keep(rows, ((who, row, last_seen(row) >= since) for who, row in old.kept()))
    if settings is not None:
        asyncio.run(_apply_events(settings, rows))


def last_seen(row: ViewerRow) -> float:
    """Return the time of a row's last event, Unix seconds; 0 if there is none."""
    watches = (at / 1e6 for at in row.watched.values())
    return max([0, *watches, *row.shown[1], *row.hides.values(), *row.followed.values()])


async def _apply_events(settings: EventLogSettings, rows: ViewerStore) -> None:
    try:
        async with opened_log(settings) as event_log:
            for _ in range(_ROUNDS):
                for partition in range(settings.event_partitions):
                    await _apply_partition(event_log, partition, rows)
    except LogAwayError as error:
        _log.warning("log_away", reason=str(error), then="the consumer applies its events")


async def _apply_partition(event_log: JetStreamLog, partition: int, rows: ViewerStore) -> None:
    """Apply a partition's events up to the log's end as it is now, as the consumer does."""
    rules, position = EventRules.load(rows.repo), rows.position(partition)
    missing = (await event_log.resume(EVENTS, position)).missing
    if missing:
        _log.error("events_missed", partition=partition, first=missing[0], last=missing[-1])
        if position != BEGIN:
            return  # so that the consumer counts them
    async for entries in event_log.up_to_end(EVENTS, str(partition), position):
        await apply(event_log, rows, partition, position, entries, rules)
        position = entries.position


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
