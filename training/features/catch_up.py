"""Brings features that were just built up to date before they are served.

Else what viewers watched and hid since the data set was made would come back into their slates, for
as long as the consumer takes to apply those events again.
"""

from __future__ import annotations

import asyncio
import math
import time
from itertools import islice
from pathlib import Path

import structlog

from vireo.ops.stack.nats import known_log
from vireo.server.consumer.apply import apply, read_batch
from vireo.server.consumer.fold import ViewerEvents, ViewerRow, fold
from vireo.server.consumer.rows import VIEWERS_AT_A_TIME, OnlineRows, UnfitRowError
from vireo.server.errors import VireoError
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import DEAD, EVENTS, LogAwayError
from vireo.server.event_log.open import opened_log
from vireo.server.event_log.position import BEGIN
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.event_log.up_to_end import up_to_end
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import RedisSettings
from vireo.server.home import Home
from vireo.training.features.online_store import OnlineStoreSettings

_log = structlog.get_logger(__name__)

_STORE_SECONDS = 60.0
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
    old = _opened(replaced, store.redis)
    if old is None and settings is None:
        return
    rows = OnlineRows(repo, _STORE_SECONDS, store.redis, announced=False)
    try:
        if old is not None:
            _keep_hides(old, rows, time.time() - store.viewer_expiry)
        if settings is not None:
            asyncio.run(_apply_events(settings, rows))
    finally:
        rows.close()
        if old is not None:
            old.close()


def _opened(repo: Path, redis: RedisSettings) -> OnlineRows | None:
    try:
        return OnlineRows(repo, _STORE_SECONDS, redis) if repo.exists() else None
    except VireoError as error:  # a build of an earlier version, for example, which had no hides
        _log.warning("hides_not_kept", features=str(repo), reason=str(error))
        return None


def _keep_hides(old: OnlineRows, rows: OnlineRows, since: float) -> None:
    """Hide what was hidden: the log may not have it any more.

    Not of viewers of whom the data set has nothing recent, and who weren't seen since then.
    """
    found = old.hides()
    while some := dict(islice(found, VIEWERS_AT_A_TIME)):
        changes = {
            viewer: fold(row, ViewerEvents(hides=hides))
            for (viewer, hides), before, row in zip(
                some.items(), old.read(list(some)), rows.read(list(some)), strict=True
            )
            if isinstance(row, ViewerRow) and (_last_seen(row) or _last_seen(before) >= since)
        }
        rows.write(changes)


def _last_seen(row: ViewerRow | UnfitRowError) -> float:
    """Return the time of a row's last watch or hide, Unix seconds; 0 if there is none."""
    if isinstance(row, UnfitRowError):
        return math.inf
    return max([*(row.times[-1:] / 1e6), *row.hidden_times[-1:]], default=0)


async def _apply_events(settings: EventLogSettings, rows: OnlineRows) -> None:
    try:
        async with opened_log(settings) as event_log:
            for _ in range(_ROUNDS):
                for partition in range(settings.event_partitions):
                    await _apply_partition(event_log, partition, rows)
    except LogAwayError as error:
        _log.warning("log_away", reason=str(error), then="the consumer applies its events")


async def _apply_partition(event_log: JetStreamLog, partition: int, rows: OnlineRows) -> None:
    """Apply a partition's events up to the log's end as it is now, as the consumer does."""
    rules, key, position = EventRules.load(rows.repo), str(partition), rows.position(partition)
    missing = (await event_log.resume(EVENTS, position)).missing
    if missing:
        _log.error("events_missed", partition=partition, first=missing[0], last=missing[-1])
        if position != BEGIN:
            return  # so that the consumer counts them
    async for entries in up_to_end(event_log, EVENTS, key, position):
        batch = read_batch(entries, rules)
        apply(rows, batch)
        for data, dedup_id in batch.letters():
            await event_log.append(DEAD, key, data, dedup_id)
        rows.write_position(partition, entries.position)
