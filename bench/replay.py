"""Viewers' rows, compared with those that a run without faults makes of the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

from pydantic import SecretStr

from bench.site import Recorder
from vireo.server.consumer.apply import read_batch, sum_up
from vireo.server.consumer.fold import fold
from vireo.server.event_log.jetstream import JetStreamLog, opened_log
from vireo.server.event_log.log import EVENTS, LogAwayError
from vireo.server.event_log.settings import EventLogSettings
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import RedisSettings, open_rows
from vireo.server.features.viewer_rows import ViewerRow
from vireo.server.features.viewer_store import StoreAwayError, ViewerStore
from vireo.server.home import Home
from vireo.v1 import log_pb2

_STORE_SECONDS = 5.0
"""Maximum seconds of a read of rows."""


@dataclass(frozen=True)
class Replay:
    """A log and the rows that a consumer writes, to compare them."""

    log: JetStreamLog
    partitions: int
    rows: ViewerStore
    rules: EventRules

    async def end(self) -> int:
        """Return the position of the last message of all partitions; raise LogAwayError."""
        return sum([await self.log.end(EVENTS, str(each)) for each in range(self.partitions)])

    async def position(self) -> int:
        """Return up to which position the log is in the rows; raise StoreAwayError."""
        places = [
            await asyncio.to_thread(self.rows.position, each) for each in range(self.partitions)
        ]
        return sum(each.sequence for each in places)

    async def applied(self) -> bool:
        """Return whether all that is in the log is in the rows; False if either is away."""
        try:
            return await self.position() >= await self.end()
        except (LogAwayError, StoreAwayError):  # a cluster may still be choosing who leads
            return False

    async def compare(self, recorder: Recorder) -> tuple[int, int]:
        """Compare what a recorder had acknowledged, and its viewers' rows, with the log.

        Returns:
            How many acknowledged events aren't in the log, and how many of the viewers, who had no
            row before, have another one than a clean replay gives.
        """
        reads = (self.log.up_to_end(EVENTS, str(each)) for each in range(self.partitions))
        entries = [entry for read in reads async for some in read for entry in some]
        logged = {
            event.event_id
            for entry in entries
            for event in log_pb2.RecordedEvents.FromString(entry.data).events
        }
        viewers = recorder.viewers
        stored = await asyncio.to_thread(self.rows.read, viewers)
        batch, events = read_batch(entries)
        clean = [
            fold(ViewerRow(), sum_up(batch, events.get(viewer, []), self.rules)[0]).row
            for viewer in viewers
        ]
        differing = sum(one != other for one, other in zip(stored, clean, strict=True))
        return len(recorder.acknowledged - logged), differing


@asynccontextmanager
async def opened_replay(
    home: Home, dataset: str, log_settings: EventLogSettings, redis_url: str = ""
) -> AsyncIterator[Replay]:
    """Yield a log, and the rows in the features of a home or in Redis.

    Open it before there is load: that takes seconds.
    """
    folder = home.features(dataset)
    redis = RedisSettings(url=SecretStr(redis_url)) if redis_url else None
    async with opened_log(log_settings) as log:
        with closing(open_rows(folder, _STORE_SECONDS, redis)) as rows:
            partitions = log_settings.event_partitions
            yield Replay(log, partitions, rows, EventRules.load(folder))
