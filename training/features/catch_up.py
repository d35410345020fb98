"""Brings features that were just built up to date before they are served.

Else what viewers watched and hid since the data set was made would come back into their slates, for
as long as the consumer takes to apply those events again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, closing
from pathlib import Path

import structlog

from vireo.ops.stack.nats import known_log
from vireo.server.consumer.apply import apply, hide
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog, opened_log
from vireo.server.event_log.log import EVENTS, LogAwayError
from vireo.server.event_log.position import BEGIN
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import open_rows
from vireo.server.features.viewer_rows import ViewerRow
from vireo.server.features.viewer_store import ViewerStore
from vireo.server.home import Home
from vireo.training.features.online_store import OnlineStoreSettings

_log = structlog.get_logger(__name__)

STORE_SECONDS = 60.0
"""Maximum seconds to wait for the online store."""
_ROUNDS = 3
"""How often to read what has come meanwhile. The consumer applies the rest."""


def catch_up(home: Home, repo: Path, replaced: Path, store: OnlineStoreSettings) -> None:
    """Apply the hides of the features that are replaced, and the events of the log if it is there.

    Args:
        home: whose stack's log it is, unless the settings name one.
        repo: the new features.
        replaced: folder of those that they will replace, if there are any.
        store: where the rows are, and after how long viewers who weren't seen are forgotten.

    Raises:
        VireoError: the online store of the new features can't be written, or a setting is invalid.
    """
    settings = known_log(home)
    with ExitStack() as opened:
        try:
            old = open_rows(replaced, STORE_SECONDS, store.redis) if replaced.exists() else None
        except VireoError as error:  # of an earlier version, for example, which had no hides
            _log.warning("hides_not_kept", features=str(replaced), reason=str(error))
            old = None
        if old is not None:
            opened.enter_context(closing(old))
        elif settings is None:
            return
        new = open_rows(repo, STORE_SECONDS, store.redis, announced=False)
        opened.enter_context(closing(new))
        if old is not None:
            # The log may not have them any more. Not of viewers of whom the data set has nothing
            # recent, and who weren't seen since.
            since = time.time() - store.viewer_expiry
            kept = ((who, row.hides, _last_seen(row) >= since) for who, row in old.hides())
            hide(new, kept)
        if settings is not None:
            asyncio.run(_apply_events(settings, new))


def _last_seen(row: ViewerRow) -> float:
    """Return the time of a row's last watch or hide, Unix seconds; 0 if there is none."""
    return max([*(row.times[-1:] / 1e6), *row.hidden_times[-1:]], default=0)


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
