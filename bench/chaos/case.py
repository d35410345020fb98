"""A case: faults under load, what must hold meanwhile, and what after."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult, Findings, degradations
from bench.chaos.plan import ChaosPlan
from bench.load import SteadyLoad
from bench.replay import Replay
from bench.site import Recorder, Refusal, opened_site

_REFUSED_SECONDS = 5.0
"""Maximum seconds until a caller knows that the log is away."""
_MAX_SHOWN = 3


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, for as long as a block lasts.

    Times of what must hold are seconds; those within which something ends count from its end.
    """

    title: str
    begin: Callable[[Chain], AbstractAsyncContextManager[Any]]
    """Lets it last until the block ends; whatever it needs beforehand is done when that begins."""
    lasts: Callable[[ChaosPlan], float] | None = None
    """Seconds that it lasts in its case; None if the case does otherwise."""
    times: Callable[[ChaosPlan], int] = lambda _: 1
    """How often it comes."""
    declares: frozenset[str] = frozenset()
    """Each slate meanwhile must declare one of these degradations."""
    declared_after: float = 0.0
    """From its begin."""
    full_within: float | None = None
    """Slates must be full again; None if it isn't looked at, infinity if it isn't judged."""
    refuses: bool = False
    """Whether events are refused meanwhile."""
    recorded_within: float | None = None
    """Events must be taken again; see `full_within`."""
    stops_rows: bool = False
    """Whether no row may change meanwhile."""
    applied_within: float | None = None
    """All events must be in the rows."""
    idle: bool = False
    """Whether it comes once no more events do."""


@dataclass(frozen=True)
class Case:
    """Faults that come one after the other."""

    title: str
    faults: tuple[Fault, ...]
    run: Callable[[Chain], Awaitable[CaseResult]] | None = None
    """Runs it; None if its faults say all that must hold."""
    events: Literal["", "refused", "kept", "taken"] = ""
    """What becomes of events that are recorded all the while: they may be refused, none may be, or
    it isn't looked at. None are recorded if it is empty."""
    on_redis: bool = False
    """Whether it needs a stack with Redis."""


async def run_case(case: Case, chain: Chain) -> CaseResult:
    """Run a case on a stack that is well; raise VireoError if it can't be run to its end."""
    if case.run is not None:
        return await case.run(chain)
    async with AsyncExitStack() as opened:
        replay = await opened.enter_async_context(chain.replay()) if case.events else None
        async with chain.load() as load:
            recorder = chain.recorder() if case.events else None
            async with AsyncExitStack() as recording:
                if recorder:
                    await recording.enter_async_context(recorder)
                await asyncio.sleep(chain.plan.quiet)
                for fault in case.faults:
                    if fault.lasts and not fault.idle:
                        for _ in range(fault.times(chain.plan)):
                            await _Suffering(chain, load, fault, recorder, replay).run()
                await asyncio.sleep(chain.plan.settle)
            for fault in (each for each in case.faults if each.idle):
                await until_applied(chain, replay)
                await _Suffering(chain, load, fault, recorder, replay).run()
        if recorder and replay:
            if case.events == "refused":
                check_refused(chain.findings, recorder.refusals)
            elif case.events == "kept":
                refused = f"{len(recorder.refusals)} calls were refused"
                chain.findings.must(not recorder.refusals, refused)
            await check_events(chain, replay, recorder)
    return chain.findings.result(load)


@dataclass(frozen=True)
class _Suffering:
    """A fault, and what is looked at while it lasts and after."""

    chain: Chain
    load: SteadyLoad
    fault: Fault
    recorder: Recorder | None
    replay: Replay | None

    async def run(self) -> None:
        chain, fault = self.chain, self.fault
        assert fault.lasts
        chain.findings.progress(fault.title)
        async with fault.begin(chain):
            gone = time.monotonic()
            row = await self._row()
            if fault.refuses:
                await chain.findings.until(self._refused_since(gone), "events were still taken")
            await asyncio.sleep(fault.lasts(chain.plan))
            chain.findings.must(await self._row() == row, "rows were written despite it")
            over = time.monotonic()
        # What ends may take a while to be back, as pods do.
        seen = [f"{over - gone:.0f} s", *await self._after(time.monotonic())]
        self._check_declared(gone, over, seen)
        chain.findings.note(f"{fault.title}: {', '.join(seen)}")

    async def _row(self) -> int:
        return await self.replay.position() if self.replay and self.fault.stops_rows else 0

    def _refused_since(self, gone: float) -> Callable[[], Awaitable[bool]]:
        async def refused() -> bool:
            assert self.recorder is not None, "a case whose events are recorded"
            return any(each.at >= gone for each in self.recorder.refusals)

        return refused

    async def _after(self, back: float) -> list[str]:
        """Return how soon after a moment all was as before."""
        chain, fault, seen = self.chain, self.fault, []
        if self.recorder and fault.recorded_within is not None:
            took = await _until_recorded(chain, self.recorder, back)
            seen.append(self._judged("events were taken again", took, fault.recorded_within))
        if fault.applied_within is not None:
            took = await until_applied(chain, self.replay)
            seen.append(self._judged("events were applied again", took, fault.applied_within))
        if fault.full_within is not None:
            took = await chain.findings.until_full(self.load, back)
            seen.append(self._judged("slates were full", took, fault.full_within))
        return seen

    def _judged(self, what: str, took: float, within: float) -> str:
        holds = math.isinf(within) or took <= self.chain.plan.within(within)
        self.chain.findings.must(holds, f"{self.fault.title}: {what} only {took:.1f} s after")
        return f"{what} {took:.1f} s after"

    def _check_declared(self, gone: float, over: float, seen: list[str]) -> None:
        """Check that slates said so; one that came later may have waited until all was back."""
        fault, findings = self.fault, self.chain.findings
        if not fault.declares:
            return
        during = [
            each
            for each in self.load.answers
            if gone + fault.declared_after <= each.at
            and each.at + each.seconds < over
            and not each.failure
        ]
        silent = [each for each in during if not degradations(each) & fault.declares]
        answered = bool(during) or fault.declared_after > 0
        findings.must(answered, f"{fault.title}: nothing was answered")
        when = ", ".join(f"{each.at - gone:.1f}" for each in silent[:_MAX_SHOWN])
        count = f"{len(silent)} of {len(during)}"
        findings.must(not silent, f"{fault.title}: {count} slates did not say so, {when} s after")
        seen.append(f"{len(during) - len(silent)} slates said so")


async def _until_recorded(chain: Chain, recorder: Recorder, since: float) -> float:
    """Return the seconds from `since` until a call was acknowledged that left after it."""

    async def recorded() -> bool:
        return recorder.last_left > since

    await chain.findings.until(recorded, "events were not taken again")
    return time.monotonic() - since


async def until_applied(chain: Chain, replay: Replay | None) -> float:
    """Return the seconds until all that is in the log is in the rows; see `Findings.until`."""
    assert replay is not None, "a case whose events are recorded"
    return await chain.findings.until(replay.applied, "the events were never applied")


def check_refused(findings: Findings, refusals: list[Refusal]) -> None:
    """Let the case fail unless calls were refused, soon, and told when to try again."""
    findings.must(bool(refusals), "no event was refused")
    wrong = [each for each in refusals if each.status != "UNAVAILABLE" or not each.says_when]
    shown = ", ".join(sorted({each.status for each in wrong}))
    findings.must(
        not wrong, f"{len(wrong)} of {len(refusals)} refusals ({shown}) don't say when to retry"
    )
    longest = max((each.seconds for each in refusals), default=0.0)
    findings.must(longest <= _REFUSED_SECONDS, f"a refusal took {longest:.1f} s")
    findings.note(f"{len(refusals)} calls refused, within {longest:.1f} s")


async def check_events(chain: Chain, replay: Replay, recorder: Recorder) -> None:
    """Let the case fail if an event is missing or stored twice, or a row isn't a clean run's."""
    findings = chain.findings
    await until_applied(chain, replay)
    end = await replay.end()
    async with opened_site(chain.settings.edge, chain.plan.patience) as site:
        for batch in recorder.last:
            await site.record(batch)
    findings.must(await replay.end() == end, "what was repeated is in the log twice")
    found = await replay.compare(recorder)
    findings.must(found.acknowledged > 0, "no event was acknowledged")
    findings.must(not found.missing, f"{found.missing} acknowledged events aren't in the log")
    differ = f"{found.differing} of {found.viewers} rows differ from a clean replay"
    findings.must(not found.differing, differ)
    findings.note(f"{found.acknowledged} events acknowledged, {found.missing} missing; {differ}")
