"""Feature build: split, offline tables, registry and online store of a data set."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog
from feast import FeatureStore

from server.errors import VireoError
from server.home import Home
from training.data.dataset import describe_dataset, load_dataset
from training.data.folder import replaced_folder
from training.data.split import Holdout, split_watches
from training.features.activity import write_viewer_activity, write_viewer_profile
from training.features.catch_up import catch_up
from training.features.definitions import ONLINE_VIEWS
from training.features.events import write_consumer_position, write_event_rules, write_viewer_hidden
from training.features.online_store import (
    OnlineStoreSettings,
    forget_online_rows,
    store_errors,
)
from training.features.repository import (
    CONFIGURATION,
    apply_definitions,
    fill_online,
    open_repository,
    write_configuration,
)
from training.features.snapshots import write_video_statistics
from training.features.watches import Split, write_watches

_log = structlog.get_logger(__name__)

_IN_USE_SECONDS = 5.0
"""Seconds for which replaced features may be read."""
Progress = Callable[[str, int, int], None]
"""Called with a step, the number of its units done, and their total."""


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
    dataset = load_dataset(home, name)
    target = home.features(name)
    with _retired(target), replaced_folder(target, private=True) as folder:
        progress("split", 0, 1)
        watches = split_watches(dataset.interactions, holdout)
        write_watches(watches, folder)
        # Hides may come after a held-out watch, and nothing that is measured reads them.
        hides = dataset.interactions[: None if holdout == "none" else 0]
        write_viewer_hidden(hides, folder / "viewer_hidden.parquet")
        del hides
        write_event_rules(dataset.interactions, folder)
        positions = describe_dataset(home, name).log_positions
        write_consumer_position(positions.partitions, folder / "consumer_position.parquet")
        watches = watches[watches["part"] != "test"]
        if watches.empty:
            raise VireoError(
                f"data set {name} has no watches to train on; "
                "import interactions whose event is play or like"
            )
        Split.of(holdout, dataset.fingerprint).write(folder)
        progress("split", 1, 1)
        first = watches["time"].min().to_pydatetime() - timedelta(seconds=1)
        write_viewer_profile(dataset.viewers, first, folder / "viewer_profile.parquet")
        step = partial(progress, "viewer activity")
        write_viewer_activity(watches, first, folder / "viewer_activity.parquet", step)
        step = partial(progress, "video statistics")
        table = folder / "video_statistics.parquet"
        write_video_statistics(watches, dataset.videos, table, step)
        del watches, dataset  # Frees memory: filling the store needs neither.
        write_configuration(folder, name, settings)
        # What is measured must not know of later events, and isn't served.
        served = partial(catch_up, home, folder, target) if holdout == "none" else None
        _fill_online_store(folder, progress, served)


def _fill_online_store(folder: Path, progress: Progress, then: Callable[[], None] | None) -> None:
    """Apply the definitions and fill the online store; undo both on failure.

    `then` is called once it is filled.
    """
    store = open_repository(folder)
    with contextlib.ExitStack() as undo:
        undo.callback(_forget, store)
        try:
            apply_definitions(store)
            for position, view in enumerate(ONLINE_VIEWS):
                progress("online store", position, len(ONLINE_VIEWS))
                fill_online(store, view, folder / f"{view}.parquet")
        except store_errors() as error:
            kind = store.config.online_store.type
            raise VireoError(
                f"the online store ({kind}) refused the features: {error}; "
                + ("check VIREO_REDIS_URL" if kind == "redis" else "check free space")
            ) from error
        if then is not None:
            then()
        progress("online store", len(ONLINE_VIEWS), len(ONLINE_VIEWS))
        undo.pop_all()


@contextlib.contextmanager
def _retired(target: Path) -> Iterator[None]:
    """Delete the online rows of the features in `target` once the block has replaced them.

    Gateways and consumers look for other features every second and with every batch, and use these
    until then.
    """
    retired = open_repository(target) if (target / CONFIGURATION).exists() else None
    yield
    if retired is not None:
        try:
            if retired.config.online_store.type == "redis":
                time.sleep(_IN_USE_SECONDS)
        finally:
            _forget(retired)


def _forget(store: FeatureStore) -> None:
    """Delete a store's rows outside its folder; on failure they only take up space."""
    try:
        forget_online_rows(store)
    except store_errors() as error:
        _log.warning("online_rows_left_behind", project=store.project, reason=str(error))
