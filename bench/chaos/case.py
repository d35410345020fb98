"""A case: faults under load, what must hold meanwhile, and what after."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult, Findings, degradations
from bench.load import SteadyLoad
from bench.replay import Replay
from bench.site import Recorder, Refusal, opened_site

_REFUSED_SECONDS = 5.0
"""Maximum seconds until a caller knows that the log is away."""
_MAX_SHOWN = 3

Begin = Callable[[Chain], AbstractAsyncContextManager[Any]]
"""Lets a fault last until the block ends; whatever it needs beforehand is done when that begins."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, for as long as a block lasts.

    Times of what must hold are seconds; those within which something ends count from its end.
    """

    title: str
    begin: Begin
    lasts: tuple[float, float] | None = None
    """Seconds that it lasts in its case, and in the short form; None if the case says."""
    times: tuple[int, int] = (1, 1)
    """How often it comes, and in the short form."""
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
    separate: bool = False
    """Whether only separate candidate and ranking pods can have it."""


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
    plan, findings = chain.plan, chain.findings
    if not case.events:
        async with chain.load() as load:
            await asyncio.sleep(plan.quiet)
            for fault in case.faults:
                await _suffer(chain, load, fault)
            await asyncio.sleep(plan.settle)
        return findings.result(load)
    async with chain.replay() as replay:
        async with chain.load() as load:
            async with chain.recorder() as recorder:
                await asyncio.sleep(plan.quiet)
                for fault in case.faults:
                    for _ in range(0 if fault.idle else plan.of(*fault.times)):
                        await _suffer(chain, load, fault, recorder, replay)
                await asyncio.sleep(plan.settle)
            for fault in case.faults:
                if fault.idle:
                    await until_applied(chain, replay)
                    await _suffer(chain, load, fault, recorder, replay)
        if case.events == "refused":
            check_refused(findings, recorder.refusals)
        elif case.events == "kept":
            count = len(recorder.refusals)
            findings.must(not count, f"{count} calls were refused")
        await check_events(chain, replay, recorder)
    return findings.result(load)


async def _suffer(
    chain: Chain,
    load: SteadyLoad,
    fault: Fault,
    recorder: Recorder | None = None,
    replay: Replay | None = None,
) -> None:
    """Let a fault come and end, and judge what there was meanwhile and after.

    A fault that says something of events needs their recorder and replay.
    """
    plan, findings = chain.plan, chain.findings
    assert fault.lasts
    findings.progress(fault.title)

    async def row() -> int:
        return await replay.position() if replay and fault.stops_rows else 0

    async with fault.begin(chain):
        gone = time.monotonic()
        before = await row()
        if recorder and fault.refuses:
            refusals = recorder.refusals

            async def refused() -> bool:
                return any(each.at >= gone for each in refusals)

            await findings.until(refused, "events were still taken")
        await asyncio.sleep(plan.of(*fault.lasts))
        findings.must(await row() == before, "rows were written despite it")
        over = time.monotonic()
    back = time.monotonic()  # what ends may take a while to be back, as pods do
    seen = [f"{over - gone:.0f} s"]

    def judged(what: str, took: float, within: float) -> None:
        holds = math.isinf(within) or took <= plan.within(within)
        findings.must(holds, f"{fault.title}: {what} only {took:.1f} s after")
        seen.append(f"{what} {took:.1f} s after")

    if recorder and fault.recorded_within is not None:
        acknowledged = recorder

        async def recorded() -> bool:
            return acknowledged.last_left > back

        took = await findings.until(recorded, "events were not taken again")
        judged("events were taken again", took, fault.recorded_within)
    if replay and fault.applied_within is not None:
        took = await until_applied(chain, replay)
        judged("events were applied again", took, fault.applied_within)
    if fault.full_within is not None:
        took = await findings.until_full(load, back)
        judged("slates were full", took, fault.full_within)
    if fault.declares:
        seen.append(_declared(findings, load, fault, gone, over))
    findings.note(f"{fault.title}: {', '.join(seen)}")


def _declared(findings: Findings, load: SteadyLoad, fault: Fault, gone: float, over: float) -> str:
    """Judge whether slates said so; one that came later may have waited until all was back."""
    begins = gone + fault.declared_after
    during = [
        each
        for each in load.answers
        if begins <= each.at and each.at + each.seconds < over and not each.failure
    ]
    silent = [each for each in during if not degradations(each) & fault.declares]
    answered = bool(during) or fault.declared_after > 0
    findings.must(answered, f"{fault.title}: nothing was answered")
    when = ", ".join(f"{each.at - gone:.1f}" for each in silent[:_MAX_SHOWN])
    count = f"{len(silent)} of {len(during)}"
    findings.must(not silent, f"{fault.title}: {count} slates did not say so, {when} s after")
    return f"{len(during) - len(silent)} slates said so"


async def until_applied(chain: Chain, replay: Replay) -> float:
    """Return the seconds until all that is in the log is in the rows; see `Findings.until`."""
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
    missing, differing = await replay.compare(recorder)
    findings.must(bool(recorder.acknowledged), "no event was acknowledged")
    findings.must(not missing, f"{missing} acknowledged events aren't in the log")
    differ = f"{differing} of {len(recorder.viewers)} rows differ from a clean replay"
    findings.must(not differing, differ)
    acknowledged = len(recorder.acknowledged)
    findings.note(f"{acknowledged} events acknowledged, {missing} missing; {differ}")
