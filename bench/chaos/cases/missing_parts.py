"""Case 5: every pod of a kind dead, and the feature store down."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult, degradations
from bench.chaos.home import online_store
from bench.load import SteadyLoad
from vireo.ops.stack.settings import PodKind

_BACK_SECONDS = 5.0
_LOCK_SECONDS = 5.0
_AWAY = "_away"
_MAX_SHOWN = 3


async def run(chain: Chain) -> CaseResult:
    """Take each part away, and give it back."""
    unread = ("features_missing", "features_stale")
    async with chain.load() as load:
        await asyncio.sleep(chain.plan.quiet)
        for what, fault, declared in (
            ("all ranking pods dead", dead(chain, "ranking"), ("ranking_skipped",)),
            ("all candidate pods dead", dead(chain, "candidate"), ("popular_fallback",)),
            ("feature store down", without_tables(chain), unread),
        ):
            await _without(chain, load, what, fault, declared)
    return chain.findings.result(load)


async def _without(
    chain: Chain,
    load: SteadyLoad,
    what: str,
    fault: AbstractAsyncContextManager[None],
    declared: Collection[str],
) -> None:
    """Check that answers declare that a part is missing, and no longer once it is back."""
    findings = chain.findings
    async with fault:
        gone = time.monotonic()
        await asyncio.sleep(chain.plan.outage)
        until = time.monotonic()
    ends = await findings.until_full(load, time.monotonic())
    limit = chain.plan.within(_BACK_SECONDS)
    findings.must(ends <= limit, f"{what}: answers were still degraded {ends:.1f} s after it")
    # An answer that came later may have waited until the part was back.
    during = [
        each
        for each in load.answers
        if gone <= each.at and each.at + each.seconds < until and not each.failure
    ]
    silent = [each for each in during if not degradations(each) & set(declared)]
    findings.must(bool(during), f"{what}: nothing was answered")
    when = ", ".join(f"{each.at - gone:.1f}" for each in silent[:_MAX_SHOWN])
    findings.must(
        not silent,
        f"{what}: {len(silent)} of {len(during)} answers did not say so, the first {when} s after",
    )
    ended = f"ended {ends:.1f} s after it was back" if math.isfinite(ends) else "did not end"
    findings.note(f"{what}: {len(during)} answers declared, which {ended}")


@asynccontextmanager
async def dead(chain: Chain, kind: PodKind) -> AsyncIterator[None]:
    """Kill every pod of a kind and keep it so; end when the supervisor has them all back."""
    names = chain.pods(kind)
    async with chain.held_down(names):
        yield
    if math.isinf(await chain.until_healthy(names)):
        chain.findings.progress(f"not all {kind} pods came back")


@asynccontextmanager
async def without_tables(chain: Chain) -> AsyncIterator[None]:
    """Rename the tables that the gateways read, until the block ends.

    To empty the file would be no fault: a consumer of events has it in WAL mode, in which readers
    go on with the pages that they have. Nor do they wait for locks then; Redis can hang (case 17).
    """
    path = online_store(chain.stack.home, chain.dataset)
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_SECONDS)) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        tables = [name for (name,) in connection.execute(query)]
        _rename(connection, {name: name + _AWAY for name in tables})
        try:
            yield
        finally:
            _rename(connection, {name + _AWAY: name for name in tables})


def _rename(connection: sqlite3.Connection, names: Mapping[str, str]) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for old, new in names.items():
            connection.execute(f'ALTER TABLE "{old}" RENAME TO "{new}"')
