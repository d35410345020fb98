"""Run a stack with Prometheus, first without a fault, then with one after the other."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Console

from bench.alerts.prometheus import Prometheus
from bench.chaos.case import Fault
from bench.chaos.cases import AFTER_DEATHS, ALERTING, CASES
from bench.chaos.chain import Chain, running_chain
from bench.chaos.plan import ChaosPlan
from bench.load import SteadyLoad
from bench.rows import Row
from vireo.ops.cli.own_stack import VIREO
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
_DOCTOR_SECONDS = 60.0


@dataclass(frozen=True)
class AlertsPlan:
    """All times in seconds."""

    clean: float = 3600.0
    """Load without a fault; none if 0."""
    warm: float = 20.0
    """Load before anything is judged: rates need a few samples."""
    fires: float = 60.0
    """Maximum from a fault's start until its alert fires."""
    watched: float = 90.0
    """How long it is waited for, to tell a late alert from none."""
    resolves: float = 150.0
    """Maximum from a fault's end until its alert has resolved: rates look back a minute."""
    tolerated: float = 30.0
    """How long after a fault that may fire no alert these are watched."""
    disregarded: frozenset[str] = frozenset()
    """Alerts that may fire without a fault."""
    faults: ChaosPlan = field(
        default_factory=lambda: ChaosPlan(
            rate=20.0,
            event_rate=20.0,
            patience=120.0,
            settle=1.0,
            overload=45.0,
            behind=100_000,
            restart_rounds=1,
        )
    )


SHORT = AlertsPlan(
    clean=30.0,
    warm=10.0,
    fires=180.0,
    watched=180.0,
    resolves=240.0,
    disregarded=frozenset({"VireoSlatesSlow"}),
    faults=ChaosPlan(
        rate=10.0, event_rate=20.0, deadline=8.0, viewers=20, patience=180.0, timed=False
    ),
)
"""For CI: half a minute of clean load; no time is judged."""


@dataclass(frozen=True)
class _Expected:
    """A fault of a chaos case, and what it must lead to."""

    case: int
    fault: Fault
    alert: str
    """What must fire; empty if nothing may."""
    cause: str
    """What `vireo doctor` must name first, as long as it lasts."""
    after_deaths: bool
    """Whether a process that died shortly before would rightly be named first."""

    def measure(self, what: str) -> str:
        """Return the name of a row."""
        return f"case {self.case}, {self.fault.title}: {what}"


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
        _Expected(numbers[fault], fault, *alert_and_cause[fault.title], fault in AFTER_DEATHS)
        for fault in ALERTING
        if fault in numbers
    ]


@dataclass(frozen=True)
class _Bench:
    """A stack with its Prometheus, under load."""

    chain: Chain
    prometheus: Prometheus
    plan: AlertsPlan
    load: SteadyLoad


def measure_alerts(
    home: Home,
    dataset: str,
    plan: AlertsPlan,
    console: Console,
    cases: Collection[int] = tuple(CASES),
) -> Iterator[Row]:
    """Yield each figure when it is there; what couldn't be measured is a row that doesn't hold.

    Clean load comes first: budgets of errors that the faults have used up alert for long.

    Args:
        home: has a release that was trained on the data set.
        dataset: its name.
        plan: how much to measure.
        console: for progress.
        cases: numbers of the chaos cases whose faults to measure.

    Raises:
        VireoError: a stack can't be set up or started, or Prometheus isn't installed.
    """
    check_programs()
    for on_redis in (False, True):
        chosen = expected_of(cases, on_redis=on_redis)
        clean = 0.0 if on_redis else plan.clean
        if chosen or clean:
            opened = running_chain(
                home,
                dataset,
                plan.faults,
                console,
                on_redis=on_redis,
                bench="alerts",
                settings=_OBSERVED,
            )
            with opened as chain:
                yield from _measured(chain, chosen, plan, clean, console)


def _measured(
    chain: Chain, faults: Sequence[_Expected], plan: AlertsPlan, clean: float, console: Console
) -> Iterator[Row]:
    prometheus, ended = Prometheus(prometheus_url(chain.settings)), dict[_Expected, float]()
    with asyncio.Runner() as runner:
        loads = AsyncExitStack()
        load = runner.run(loads.enter_async_context(chain.load()))
        runner.run(loads.enter_async_context(chain.recorder()))
        try:
            bench = _Bench(chain, prometheus, plan, load)
            runner.run(_settled(bench))
            if clean:
                console.print(f"{clean:.0f} s without a fault")
                yield from runner.run(_without_fault(bench, clean, console))
            for each in faults:
                case = _Bench(chain.for_case(each.case, console), prometheus, plan, load)
                case.chain.findings.progress(each.fault.title)
                try:
                    yield from runner.run(_with(each, case))
                except VireoError as error:
                    yield Row(each.measure(str(error)), 0, None, 1, True, _SECTION)
                else:
                    ended[each] = time.time()
            for each, since in ended.items():
                if each.alert:
                    yield runner.run(_resolves(each, since, bench))
        finally:
            runner.run(loads.aclose())


async def _settled(bench: _Bench) -> None:
    await bench.chain.until_well()
    await asyncio.sleep(bench.plan.warm)


async def _without_fault(bench: _Bench, seconds: float, console: Console) -> list[Row]:
    """Return how many alerts fire, and what doctor finds, while all is well."""
    before, start = len(bench.load.answers), time.time()
    await asyncio.sleep(seconds)
    failing = [each.cause for each in await _doctor(bench) if each.level == "failing"]
    fired = await _fired(bench, start)
    answers = bench.load.answers[before:]
    failed = sum(bool(each.failure) for each in answers)
    told = ", ".join([*fired, *failing]) or "nothing"
    console.print(f"{len(answers)} slates, {failed} of them failed: {told} was told")
    return [
        _row(f"alerts that fire in {seconds:.0f} s without a fault", len(fired), 0),
        _row("failures that doctor finds without a fault", len(failing), 0),
    ]


async def _with(each: _Expected, bench: _Bench) -> list[Row]:
    """Return when a fault's alert fires, and whether doctor names its cause meanwhile."""
    await _until_peace(each, bench)
    if not each.alert:
        return await _tolerated(each, bench)
    chain, plan = bench.chain, bench.plan

    async def fires() -> bool:
        return each.alert in await bench.prometheus.firing()

    async with each.fault.begin(chain):
        took = await chain.findings.until(fires, patience=plan.watched, poll=_POLL)
        found = [finding.cause for finding in await _doctor(bench)]
        firing = await bench.prometheus.firing()
    chain.findings.progress(
        f"{each.alert} after {took:.1f} s; doctor: {', '.join(found) or 'nothing'}; "
        f"{', '.join(sorted(firing)) or 'nothing'} fires"
    )
    return [
        _row(each.measure(f"s until {each.alert}"), min(took, plan.watched), plan.fires),
        _named(each, bool(found) and found[0] == each.cause),
    ]


async def _tolerated(each: _Expected, bench: _Bench) -> list[Row]:
    """Return how many alerts fire for what is no fault, and whether doctor says what it is."""
    start = time.time()
    async with each.fault.begin(bench.chain):
        found = await _doctor(bench)
        await asyncio.sleep(bench.plan.tolerated)
    fired = await _fired(bench, start)
    bench.chain.findings.progress(
        f"fired: {', '.join(fired) or 'nothing'}; doctor: "
        f"{', '.join(finding.cause for finding in found) or 'nothing'}"
    )
    alarmed = any(finding.level == "failing" for finding in found)
    named = any(finding.cause == each.cause for finding in found)
    return [
        _row(each.measure("alerts that fire"), len(fired), 0),
        _named(each, named and not alarmed),
    ]


async def _until_peace(each: _Expected, bench: _Bench) -> None:
    """Return once nothing is left of the fault before that would be taken for this one."""
    await bench.chain.until_well()

    async def peace() -> bool:
        processes = bench.chain.stack.state().processes
        now = datetime.now(UTC)
        ages = [(now - one.ended_at).total_seconds() for one in processes if one.ended_at]
        recent = each.after_deaths and min(ages, default=math.inf) <= JUST_NOW
        return not recent and each.alert not in await bench.prometheus.firing()

    patience = bench.plan.resolves
    if math.isinf(await bench.chain.findings.until(peace, patience=patience, poll=_POLL)):
        raise VireoError(f"{each.alert} fires already")


async def _resolves(each: _Expected, since: float, bench: _Bench) -> Row:
    """Return how long after a fault's end its alert fired."""
    took: float | None = None

    async def resolved() -> bool:
        nonlocal took
        took = await bench.prometheus.resolved(each.alert, since)
        return took is not None

    await bench.chain.findings.until(resolved, patience=bench.plan.resolves, poll=_POLL)
    figure = time.time() - since if took is None else took
    return _row(each.measure(f"s until {each.alert} resolves"), figure, bench.plan.resolves)


async def _fired(bench: _Bench, start: float) -> list[str]:
    """Return the alerts that fired since a moment, and may not have."""
    fired = await bench.prometheus.fired(start, time.time())
    return sorted(fired.keys() - bench.plan.disregarded)


def _row(measure: str, figure: float, bound: float) -> Row:
    return Row(measure, figure, bound=bound, section=_SECTION)


def _named(each: _Expected, holds: bool) -> Row:
    return Row(each.measure(f"doctor names {each.cause} first"), holds, None, 1, True, _SECTION)


@dataclass(frozen=True)
class _Found:
    """What `vireo doctor` finds."""

    cause: str
    level: str
    """"failing", "risk" or "note"."""


async def _doctor(bench: _Bench) -> list[_Found]:
    """Return what `vireo doctor` finds, the likeliest first, asked as an operator asks it.

    Raises:
        VireoError: it failed, took too long, or could ask nothing.
    """
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            [*VIREO, "doctor", "--json"],
            env=dict(bench.chain.stack.environment),
            capture_output=True,
            text=True,
            timeout=_DOCTOR_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise VireoError(f"vireo doctor took more than {_DOCTOR_SECONDS:.0f} s") from error
    if done.returncode not in (0, 1):  # 1 says that something fails
        raise VireoError(f"vireo doctor failed: {done.stderr.strip() or done.stdout.strip()}")
    return [_Found(each["cause"], each["level"]) for each in json.loads(done.stdout)["findings"]]
