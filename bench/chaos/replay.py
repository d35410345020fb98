"""Compares viewers' rows with those of a clean replay of the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
from pydantic import SecretStr
from vireo.v1 import log_pb2

from bench.chaos.chain import Chain
from bench.chaos.findings import Findings
from bench.chaos.recorder import Recorder
from server.consumer.apply import read_batch
from server.consumer.fold import ViewerEvents, ViewerRow, fold
from server.consumer.rows import OnlineRows, StoreAwayError
from server.errors import VireoError
from server.event_log.jetstream import JetStreamLog
from server.event_log.log import EVENTS, Entry, LogAwayError
from server.event_log.open import opened_log
from server.features.activity import EventRules
from server.features.online_store import RedisSettings
from server.stack.nats import reachable_log

_STORE_SECONDS = 5.0
_PARTITION = 0
"""The only one of a stack under test."""


@dataclass(frozen=True)
class Replay:
    """The stack's log and rows, to compare them."""

    log: JetStreamLog
    rows: OnlineRows
    rules: EventRules
    findings: Findings

    async def end(self) -> int:
        """Return the position of the log's last message; raise LogAwayError."""
        return await self.log.end(EVENTS, str(_PARTITION))

    async def position(self) -> int:
        """Return up to which sequence the log is in the rows; raise StoreAwayError."""
        return (await asyncio.to_thread(self.rows.position, _PARTITION)).sequence

    async def until_applied(self, otherwise: str = "the events were never applied") -> float:
        """Return the seconds until all that is in the log is in the rows; see `Findings.until`."""

        async def applied() -> bool:
            try:
                return await self.position() >= await self.end()
            except (LogAwayError, StoreAwayError):
                return False

        return await self.findings.until(applied, otherwise)

    async def check(self, *recorders: Recorder) -> None:
        """Have the case fail if an acknowledged event is missing, or a row isn't a clean run's."""
        findings = self.findings
        await self.until_applied()
        entries = await self._entries()
        logged = {
            event.event_id
            for entry in entries
            for event in log_pb2.RecordedEvents.FromString(entry.data).events
        }
        acknowledged = {event_id for each in recorders for event_id in each.acknowledged}
        missing = acknowledged - logged
        findings.must(bool(acknowledged), "no event was acknowledged")
        findings.must(not missing, f"{len(missing)} acknowledged events aren't in the log")
        viewers = [viewer for each in recorders for viewer in each.viewers]
        events = read_batch(entries, self.rules).viewers
        clean = [fold(ViewerRow(), events.get(viewer, ViewerEvents())).row for viewer in viewers]
        stored = await asyncio.to_thread(self.rows.read, viewers)
        other = sum(not _same(*both) for both in zip(stored, clean, strict=True))
        findings.must(not other, f"{other} of {len(viewers)} rows differ from a clean replay")
        findings.note(
            f"{len(acknowledged)} events acknowledged, {len(missing)} missing; {other} of "
            f"{len(viewers)} rows differ from a clean replay"
        )

    async def _entries(self) -> list[Entry]:
        found: list[Entry] = []
        async with aclosing(cast("Any", self.log.read(EVENTS, str(_PARTITION)))) as reading:
            async for entries in reading:
                found += entries
                if not entries:
                    return found
        raise VireoError("reading the log has ended")


@asynccontextmanager
async def opened_replay(chain: Chain) -> AsyncIterator[Replay]:
    """Yield the stack's log and rows. Open them before there is load: that takes seconds."""
    folder = chain.stack.home.features(chain.dataset)
    rules = EventRules.load(folder)
    redis = RedisSettings(url=SecretStr(chain.valkey.url)) if chain.valkey else None
    async with opened_log(reachable_log(chain.settings)) as log:
        with closing(OnlineRows(folder, _STORE_SECONDS, redis)) as rows:
            yield Replay(log, rows, rules, chain.findings)


def _same(stored: object, clean: ViewerRow) -> bool:
    return isinstance(stored, ViewerRow) and all(
        np.array_equal(getattr(stored, each.name), getattr(clean, each.name))
        for each in fields(ViewerRow)
    )
