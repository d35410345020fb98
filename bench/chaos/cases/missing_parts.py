"""Case 5: every pod of a kind dead, and the feature store down or hanging."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import time
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from bench.chaos.chain import Chain
from bench.chaos.home import online_store
from bench.chaos.result import CaseResult, Findings, degradations
from bench.chaos.waiting import seconds_until_full
from bench.load import SteadyLoad
from server.stack.settings import PodKind

CASE = 5
TITLE = "all ranking pods dead, all candidate pods dead, no feature store"

_BACK_SECONDS = 5.0
_MOST_SHOWN = 3


async def run(chain: Chain) -> CaseResult:
    """Takes each part away, and gives it back."""
    findings = chain.findings(CASE)
    unread = ("features_missing", "features_stale")
    async with chain.load() as load:
        await asyncio.sleep(chain.plan.quiet)
        for what, fault, declared in (
            ("all ranking pods dead", _dead(chain, "ranking"), ("ranking_skipped",)),
            ("all candidate pods dead", _dead(chain, "candidate"), ("popular_fallback",)),
            ("feature store down", _emptied_store(chain), unread),
            ("feature store hanging", _locked_store(chain), unread),
        ):
            await _without(chain, load, findings, what, fault, declared)
    return findings.result(load)


async def _without(
    chain: Chain,
    load: SteadyLoad,
    findings: Findings,
    what: str,
    fault: AbstractAsyncContextManager[None],
    declared: Collection[str],
) -> None:
    """Checks that answers say so while a part is missing, and no longer once it is back."""
    async with fault:
        gone = time.monotonic()
        await asyncio.sleep(chain.plan.outage)
        until = time.monotonic()
    back = time.monotonic()
    ends = await seconds_until_full(load, chain.judge, back, chain.plan.patience)
    limit = chain.plan.within(_BACK_SECONDS)
    findings.must(ends <= limit, f"{what}: answers were still degraded {ends:.1f} s after it")
    during = [each for each in load.answers if gone <= each.at < until and not each.failure]
    silent = [each for each in during if not degradations(each) & set(declared)]
    findings.must(bool(during), f"{what}: nothing was answered")
    when = [f"{each.at - gone:.1f}" for each in silent[:_MOST_SHOWN]]
    findings.must(
        not silent,
        f"{what}: {len(silent)} of {len(during)} answers did not say so, first those asked for "
        f"{', '.join(when)} s after it was gone",
    )
    ended = f"ended {ends:.1f} s after it was back" if math.isfinite(ends) else "did not end"
    text = f"{what}: {len(during)} answers declared, which {ended}"
    findings.note(text)
    chain.tell(text)


@asynccontextmanager
async def _dead(chain: Chain, kind: PodKind) -> AsyncIterator[None]:
    """Kills every pod of a kind and keeps it so; ends when the supervisor has them all back."""
    names = chain.pods(kind)
    async with chain.held_down(names):
        yield
    if math.isinf(await chain.until_healthy(names)):
        chain.tell(f"not all {kind} pods came back")


@asynccontextmanager
async def _emptied_store(chain: Chain) -> AsyncIterator[None]:
    """Leaves the gateways, which have the file open, an empty one."""
    path = online_store(chain.settings.home_folder, chain.dataset)
    content = path.read_bytes()
    path.write_bytes(b"")
    try:
        yield
    finally:
        path.write_bytes(content)


@asynccontextmanager
async def _locked_store(chain: Chain) -> AsyncIterator[None]:
    """Locks the file for one writer alone: a reader waits for as long as it has patience."""
    path = online_store(chain.settings.home_folder, chain.dataset)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")
