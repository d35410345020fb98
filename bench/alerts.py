"""Whether each fault of `bench.chaos` fires its alert, and `vireo doctor` names its cause.

A stack runs with Prometheus, first without a fault, then with one after the other.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from rich.console import Console

from bench.chaos.case import Fault
from bench.chaos.cases import AFTER_DEATHS, ALERTING, CASES
from bench.chaos.chain import Chain, running_chain
from bench.chaos.findings import ChaosPlan
from bench.load import SteadyLoad
from bench.rows import Row
from bench.stack import page_of
from vireo.ops.doctor.causes.processes import JUST_NOW
from vireo.ops.doctor.conditions import by_fault
from vireo.ops.stack.observe import check_programs, prometheus_url
from vireo.server.errors import VireoError
from vireo.server.home import Home

SHORT_CASES = (3,)
"""What CI runs: a pod that hangs."""
_OBSERVED = {"VIREO_OBSERVE": "true"}
_SECTION = "alerts"
_POLL = 0.5
_PEACE_SECONDS = 240.0
_MAX_SAMPLES = 10_000
"""Prometheus gives 11,000 samples of a series at most."""
_FIRING = 'max by (alertname) (ALERTS{alertstate="firing",severity!="watchdog"})'
"""But for the alert that always fires."""
FULL = ChaosPlan(rate=20.0, event_rate=20.0, patience=120.0, settle=1.0)
SHORT = ChaosPlan(rate=10.0, event_rate=20.0, deadline=8.0, viewers=20, patience=180.0, timed=False)
"""For CI: seconds of clean load; no time is judged, nor whether alerts resolve."""
_CLEAN, _WARM = (3600.0, 15.0), (20.0, 5.0)
"""Seconds of load without a fault, and before anything is judged: rates need a few samples; here
and below, the second is the short form."""
_FIRES, _WATCHED = (60.0, 180.0), (90.0, 180.0)
"""Maximum seconds from a fault's start until its alert fires, and how long it is waited for, to
tell a late alert from none."""
_RESOLVES = (150.0, 0.0)
"""Maximum seconds from a fault's end until its alert has resolved: rates look back a minute. If 0,
it isn't looked at."""
_TOLERATED = 30.0
"""Seconds after a fault that may fire no alert for which these are watched."""
_DISREGARDED = (frozenset[str](), frozenset({"VireoSlatesSlow"}))
"""Alerts that may fire without a fault."""


@dataclass(frozen=True)
class _Expected:
    """A fault of a chaos case, and what it must lead to."""

    case: int
    fault: Fault
    alert: str
    """What must fire; empty if nothing may."""
    cause: str
    """What `vireo doctor` must name first, as long as it lasts."""

    def row(self, what: str, figure: float = 0, bound: float = 1, *, at_least: bool = False) -> Row:
        """Return a row of it."""
        measure = f"case {self.case}, {self.fault.title}: {what}"
        return Row(measure, figure, None, bound, at_least, _SECTION)


def expected_of(cases: Collection[int], *, on_redis: bool) -> list[_Expected]:
    """Return the faults of chaos cases, in the order in which none hides the next."""
    numbers = {
        fault: number
        for number, case in CASES.items()
        for fault in case.faults
        if number in cases and case.on_redis == on_redis
    }
    alert_and_cause = by_fault()
    return [
        _Expected(numbers[fault], fault, *alert_and_cause[fault.title])
        for fault in ALERTING
        if fault in numbers
    ]


@dataclass(frozen=True)
class _Bench:
    """A stack with its Prometheus, under load."""

    chain: Chain
    load: SteadyLoad

    async def fired(self, start: float, end: float = 0.0) -> dict[str, list[float]]:
        """Return at which moments alerts fired, by name: now, or some seconds apart since `start`.

        All times are Unix seconds.
        """
        end = end or time.time()
        step = max(1.0, (end - start) / _MAX_SAMPLES)
        asked = urlencode({"query": _FIRING, "start": start, "end": end, "step": step})
        port = int(prometheus_url(self.chain.settings).rpartition(":")[2])
        answer: Any = json.loads(await page_of(port, f"api/v1/query_range?{asked}"))
        found = {
            each["metric"]["alertname"]: [float(at) for at, _ in each["values"]]
            for each in answer["data"]["result"]
        }
        disregarded = self.chain.plan.of(*_DISREGARDED)
        return {name: at for name, at in found.items() if name not in disregarded}

    async def firing(self) -> list[str]:
        """Return the names of the alerts that fire now."""
        now = time.time()
        return sorted(await self.fired(now, now))

    async def doctor(self) -> list[dict[str, str]]:
        """Return the `cause` and `level` of what `vireo doctor` finds, the likeliest first.

        Raises:
            VireoError: it failed, took too long, or could ask nothing.
        """
        done = await self.chain.stack.vireo("doctor", "--json")
        if done.returncode not in (0, 1):  # 1 says that something fails
            raise VireoError(f"vireo doctor failed: {done.stderr.strip() or done.stdout.strip()}")
        findings: list[dict[str, str]] = json.loads(done.stdout)["findings"]
        return findings


def measure_alerts(
    home: Home,
    dataset: str,
    plan: ChaosPlan,
    console: Console,
    cases: Collection[int] = tuple(CASES),
    clean: float | None = None,
) -> Iterator[Row]:
    """Yield each figure when it is there; what couldn't be measured is a row that doesn't hold.

    Clean load comes first: budgets of errors that the faults have used up alert for long.

    Args:
        home: has a release that was trained on the data set.
        dataset: its name.
        plan: how much to measure.
        console: for progress.
        cases: numbers of the chaos cases whose faults to measure.
        clean: seconds of load without a fault; the plan's if None.

    Raises:
        VireoError: a stack can't be set up or started, or Prometheus isn't installed.
    """
    check_programs()
    for on_redis in (False, True):
        chosen = expected_of(cases, on_redis=on_redis)
        seconds = plan.of(*_CLEAN) if clean is None else clean
        if on_redis:
            seconds = 0.0
        if chosen or seconds:
            opened = running_chain(
                home, dataset, plan, on_redis=on_redis, bench="alerts", settings=_OBSERVED
            )
            with opened as chain:
                yield from _measured(chain, chosen, seconds, console)


def _measured(
    chain: Chain, faults: Sequence[_Expected], clean: float, console: Console
) -> Iterator[Row]:
    ended = dict[_Expected, float]()
    with asyncio.Runner() as runner:
        loads = AsyncExitStack()
        load = runner.run(loads.enter_async_context(chain.load()))
        runner.run(loads.enter_async_context(chain.recorder()))
        bench = _Bench(chain, load)
        try:
            runner.run(chain.until_well())
            runner.run(asyncio.sleep(chain.plan.of(*_WARM)))
            if clean:
                console.print(f"{clean:.0f} s without a fault")
                yield from runner.run(_without_fault(bench, clean, console))
            for each in faults:
                case = replace(bench, chain=chain.for_case(each.case, console))
                case.chain.findings.progress(each.fault.title)
                try:
                    yield from runner.run(_with(each, case))
                except VireoError as error:
                    yield each.row(str(error), at_least=True)
                else:
                    ended[each] = time.time()
            for each, since in ended.items():
                if each.alert and chain.plan.of(*_RESOLVES):
                    yield runner.run(_resolves(each, since, bench))
        finally:
            runner.run(loads.aclose())


async def _without_fault(bench: _Bench, seconds: float, console: Console) -> list[Row]:
    """Return how many alerts fire, and what doctor finds, while all is well."""
    before, start = len(bench.load.answers), time.time()
    await asyncio.sleep(seconds)
    failing = [each["cause"] for each in await bench.doctor() if each["level"] == "failing"]
    if not bench.chain.plan.timed and "pod-slow" in failing:
        failing.remove("pod-slow")  # a busy machine can be late with calls of one pod alone
    fired = await bench.fired(start)
    answers = bench.load.answers[before:]
    failed = sum(bool(each.failure) for each in answers)
    told = ", ".join([*fired, *failing]) or "nothing"
    console.print(f"{len(answers)} slates, {failed} of them failed: {told} was told")
    what = f"alerts that fire in {seconds:.0f} s without a fault"
    return [
        Row(what, len(fired), bound=0, section=_SECTION),
        Row("failures that doctor finds without a fault", len(failing), bound=0, section=_SECTION),
    ]


async def _with(each: _Expected, bench: _Bench) -> list[Row]:
    """Return when a fault's alert fires, and whether doctor names its cause meanwhile.

    Of what is no fault no alert may fire, but doctor must say what it is.
    """
    chain, findings, watched = bench.chain, bench.chain.findings, bench.chain.plan.of(*_WATCHED)
    await _until_peace(each, bench)
    start = time.time()

    async def fires() -> bool:
        return each.alert in await bench.firing()

    async with each.fault.begin(chain):
        took = await findings.until(fires, patience=watched, poll=_POLL) if each.alert else 0.0
        found = await bench.doctor()
        if not each.alert:
            await asyncio.sleep(_TOLERATED)
        fired = [*await bench.fired(start)]
    causes = [finding["cause"] for finding in found]
    findings.progress(
        f"{each.alert or 'no alert'} after {took:.1f} s; doctor: {', '.join(causes) or 'nothing'}; "
        f"{', '.join(fired) or 'nothing'} fired"
    )
    if each.alert:
        named = causes[:1] == [each.cause]
        first = each.row(f"s until {each.alert}", min(took, watched), chain.plan.of(*_FIRES))
    else:
        alarmed = any(finding["level"] == "failing" for finding in found)
        named = each.cause in causes and not alarmed
        first = each.row("alerts that fire", len(fired), 0)
    return [first, each.row(f"doctor names {each.cause} first", named, at_least=True)]


async def _until_peace(each: _Expected, bench: _Bench) -> None:
    """Return once nothing is left of the fault before that would be taken for this one."""
    await bench.chain.until_well()

    async def peace() -> bool:
        processes = bench.chain.stack.state().processes
        now = datetime.now(UTC)
        ages = [(now - one.ended_at).total_seconds() for one in processes if one.ended_at]
        recent = each.fault in AFTER_DEATHS and min(ages, default=math.inf) <= JUST_NOW
        return not recent and each.alert not in await bench.firing()

    if math.isinf(await bench.chain.findings.until(peace, patience=_PEACE_SECONDS, poll=_POLL)):
        raise VireoError(f"{each.alert} fires already")


async def _resolves(each: _Expected, since: float, bench: _Bench) -> Row:
    """Return how long after a fault's end its alert fired."""
    took, limit = math.inf, bench.chain.plan.of(*_RESOLVES)

    async def resolved() -> bool:
        nonlocal took
        now = min(time.time(), since + limit)
        took = resolved_after((await bench.fired(since, now)).get(each.alert, []), since, now)
        return math.isfinite(took)

    await bench.chain.findings.until(resolved, patience=limit, poll=_POLL)
    figure = min(took, time.time() - since)
    return each.row(f"s until {each.alert} resolves", figure, limit)


def resolved_after(moments: Sequence[float], since: float, now: float) -> float:
    """Return the seconds until an alert did not fire; infinity if it still does.

    Args:
        moments: at which it fired, of all that are a second apart from `since` to `now`.
        since: Unix seconds.
        now: Unix seconds.
    """
    fired = {round(moment - since) for moment in moments}
    seconds = (second for second in range(int(now - since)) if second not in fired)
    return next(map(float, seconds), math.inf)
