"""Case 15: another program keeps SQLite's write lock, so that events can't be applied."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.chaos.cases.log_away import check_declared
from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.chaos.home import online_store
from bench.chaos.replay import opened_replay

_DECLARED_SECONDS = 13.0
"""Gateways wait for 10 s, and hear each second how far the consumer is."""
_BACK_SECONDS = 15.0
"""The consumer waits up to 5 s for the lock, then up to 5 s before it tries again."""


async def run(chain: Chain) -> CaseResult:
    """Hold the lock while events come in; slates go on, and rows follow once it is free."""
    plan, findings = chain.plan, chain.findings
    async with opened_replay(chain) as replay:
        async with chain.load() as load, chain.recorder() as recorder:
            await asyncio.sleep(plan.quiet)
            with locked_store(chain):
                before, locked = await replay.position(), time.monotonic()
                await asyncio.sleep(2 * plan.store_outage)
                after, free = await replay.position(), time.monotonic()
            findings.must(after == before, "rows were written despite the lock")

            async def written() -> bool:
                return await replay.position() > after

            back = await findings.until(written, "events were not applied again")
            limit = plan.within(_BACK_SECONDS)
            findings.must(back <= limit, f"events were applied again only {back:.1f} s after")
            ends = await findings.until_full(load, free)
            findings.must(ends <= limit, f"slates were still degraded {ends:.1f} s after")
            check_declared(findings, load, locked + _DECLARED_SECONDS, free)
            findings.note(
                f"locked for {free - locked:.0f} s; events are applied again {back:.1f} s after "
                f"it, and no slate is degraded {ends:.1f} s after it"
            )
        findings.must(not recorder.refusals, f"{len(recorder.refusals)} calls were refused")
        await replay.check(recorder)
    return findings.result(load)


@contextmanager
def locked_store(chain: Chain) -> Iterator[None]:
    """Hold SQLite's write lock until the block ends."""
    path = online_store(chain.stack.home, chain.dataset)
    with contextlib.closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
