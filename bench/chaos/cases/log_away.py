"""Case 11: the log is killed while events come in, and then is away for a while."""

from __future__ import annotations

import asyncio
import signal
import time

from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult, Findings, degradations
from bench.chaos.recorder import Recorder, Refusal
from bench.chaos.replay import opened_replay
from bench.load import SteadyLoad

_REFUSED_SECONDS = 5.0
"""Maximum seconds until a caller knows that the log is away."""
_BACK_SECONDS = 15.0
"""The supervisor waits up to 10 s before it starts a process that keeps dying."""
_DECLARED_SECONDS = 20.0
"""Seconds after which slates say that features may lack events."""


async def run(chain: Chain) -> CaseResult:
    """Kill the log again and again, keep it dead, then repeat what was acknowledged."""
    plan, findings = chain.plan, chain.findings
    async with opened_replay(chain) as replay:
        async with chain.load() as load, chain.recorder() as recorder:
            await asyncio.sleep(plan.quiet)
            backs = [await _killed(chain, recorder) for _ in range(plan.log_kills)]
            findings.note(f"events are taken again {max(backs):.1f} s after a kill at most")
            gone = time.monotonic()
            async with chain.held_down(["log"]):
                await asyncio.sleep(plan.log_outage)
                over = time.monotonic()
            back = await until_recorded(chain, recorder, over)
            limit = plan.within(_BACK_SECONDS)
            findings.must(back <= limit, f"events were taken again only {back:.1f} s after it")
            ends = await findings.until_full(load, over)
            findings.note(
                f"away for {over - gone:.0f} s; events are taken again {back:.1f} s after it, and "
                f"no slate is degraded {ends:.1f} s after it"
            )
        during = sum(gone <= each.at < over for each in recorder.refusals)
        findings.must(bool(during), "no event was refused while the log was away")
        check_declared(findings, load, gone + _DECLARED_SECONDS, over)
        check_refused(findings, recorder.refusals)
        await replay.until_applied()
        end = await replay.end()
        await recorder.repeat_last()
        findings.must(await replay.end() == end, "what was repeated is in the log twice")
        await replay.check(recorder)
    return findings.result(load)


async def _killed(chain: Chain, recorder: Recorder) -> float:
    """Kill the log; return the seconds until an event is recorded again."""
    await chain.until_healthy(["log"])
    killed = time.monotonic()
    chain.send("log", signal.SIGKILL)
    took = await until_recorded(chain, recorder, killed)
    chain.findings.progress(f"the log was killed; events are taken again after {took:.1f} s")
    await asyncio.sleep(chain.plan.settle)
    return took


async def until_recorded(chain: Chain, recorder: Recorder, since: float) -> float:
    """Return the seconds from `since` until a call was acknowledged that left after it."""

    async def recorded() -> bool:
        return recorder.last_left > since

    await chain.findings.until(recorded, "events were not taken again")
    return time.monotonic() - since


def check_refused(findings: Findings, refusals: list[Refusal]) -> None:
    """Have the case fail unless calls were refused, soon, and told when to try again."""
    findings.must(bool(refusals), "no event was refused")
    wrong = [each for each in refusals if each.status != "UNAVAILABLE" or not each.says_when]
    shown = ", ".join(sorted({each.status for each in wrong}))
    findings.must(
        not wrong, f"{len(wrong)} of {len(refusals)} refusals ({shown}) don't say when to retry"
    )
    longest = max((each.seconds for each in refusals), default=0.0)
    findings.must(longest <= _REFUSED_SECONDS, f"a refusal took {longest:.1f} s")
    findings.note(f"{len(refusals)} calls refused, within {longest:.1f} s")


def check_declared(findings: Findings, load: SteadyLoad, start: float, end: float) -> None:
    """Have the case fail unless slates between two moments say that features may lack events."""
    asked = [each for each in load.answers if start <= each.at < end]
    silent = [each for each in asked if "features_behind" not in degradations(each)]
    findings.must(not silent, f"{len(silent)} of {len(asked)} slates did not say features_behind")
    if asked:
        findings.note(f"{len(asked) - len(silent)} slates said that features may lack events")
