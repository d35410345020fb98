"""Compares viewers' rows with those of a clean replay of the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

from pydantic import SecretStr

from bench.chaos.chain import Chain
from bench.chaos.findings import Findings
from bench.chaos.recorder import Recorder
from bench.replay import STORE_SECONDS, differing, event_ids, logged
from vireo.ops.stack.nats import reachable_log
from vireo.server.event_log.jetstream import JetStreamLog, opened_log
from vireo.server.event_log.log import EVENTS, LogAwayError
from vireo.server.features.activity import EventRules
from vireo.server.features.online_store import RedisSettings, open_rows
from vireo.server.features.viewer_store import StoreAwayError, ViewerStore

_PARTITION = 0
"""The only one of a stack under test."""


@dataclass(frozen=True)
class Replay:
    """The stack's log and rows, to compare them."""

    log: JetStreamLog
    rows: ViewerStore
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
        entries = await logged(self.log, [_PARTITION])
        acknowledged = {event_id for each in recorders for event_id in each.acknowledged}
        missing = acknowledged - event_ids(entries)
        findings.must(bool(acknowledged), "no event was acknowledged")
        findings.must(not missing, f"{len(missing)} acknowledged events aren't in the log")
        viewers = [viewer for each in recorders for viewer in each.viewers]
        stored = await asyncio.to_thread(self.rows.read, viewers)
        other = differing(stored, entries, self.rules, viewers)
        findings.must(not other, f"{other} of {len(viewers)} rows differ from a clean replay")
        findings.note(
            f"{len(acknowledged)} events acknowledged, {len(missing)} missing; {other} of "
            f"{len(viewers)} rows differ from a clean replay"
        )


@asynccontextmanager
async def opened_replay(chain: Chain) -> AsyncIterator[Replay]:
    """Yield the stack's log and rows. Open them before there is load: that takes seconds."""
    folder = chain.stack.home.features(chain.dataset)
    rules = EventRules.load(folder)
    redis = RedisSettings(url=SecretStr(chain.valkey.url)) if chain.valkey else None
    async with opened_log(reachable_log(chain.settings)) as log:
        with closing(open_rows(folder, STORE_SECONDS, redis)) as rows:
            yield Replay(log, rows, rules, chain.findings)
