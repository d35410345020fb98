"""Case 12: the log's disk is full."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.chaos.cases.log_away import check_refused, until_recorded
from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.chaos.replay import opened_replay
from bench.chaos.small_disk import log_disk

_BLOCK = b"\0" * (1 << 16)
_BACK_SECONDS = 30.0
"""The server takes nothing until the supervisor restarts it, 10 s after it has noticed."""


async def run(chain: Chain) -> CaseResult:
    """Fill the disk while events come in, and make room again."""
    plan, findings, disk = chain.plan, chain.findings, log_disk(chain.stack.home)
    if not disk.is_mount():
        return findings.skipped("the log has no disk of its own: that needs root on Linux")
    async with opened_replay(chain) as replay:
        async with chain.load() as load, chain.recorder() as recorder:
            await asyncio.sleep(plan.quiet)
            async with filled(disk) as size:
                findings.progress(f"the log's disk is full: {size >> 20} MiB of something else")

                async def refused() -> bool:
                    return bool(recorder.refusals)

                await findings.until(refused, "events were still taken")
                await asyncio.sleep(plan.outage)
            free = time.monotonic()
            back = await until_recorded(chain, recorder, free)
            limit = plan.within(_BACK_SECONDS)
            findings.must(back <= limit, f"events were taken again only {back:.1f} s after")
            ends = await findings.until_full(load, free)
            findings.note(
                f"events are taken again {back:.1f} s after there is room, and no slate is "
                f"degraded {ends:.1f} s after"
            )
        check_refused(findings, recorder.refusals)
        await replay.check(recorder)
    return findings.result(load)


@asynccontextmanager
async def filled(disk: Path) -> AsyncIterator[int]:
    """Fill a disk until the block ends; yield the bytes that this took."""
    ballast = disk / "ballast"
    try:
        yield await asyncio.to_thread(_fill, ballast)
    finally:
        ballast.unlink()


def _fill(ballast: Path) -> int:
    """Fill the file's disk with it; return its bytes."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(_BLOCK)
        except OSError:
            return file.tell()
