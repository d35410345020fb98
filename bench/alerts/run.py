"""Run a stack with Prometheus, first without a fault, then with one after the other."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console

from bench.alerts.doctor import findings
from bench.alerts.faults import FAULTS, Fault
from bench.alerts.plan import AlertsPlan
from bench.alerts.prometheus import Prometheus
from bench.chaos.chain import Chain
from bench.chaos.stacks import running_chain
from bench.load import SteadyLoad
from bench.speed.row import Row
from vireo.ops.doctor.causes.processes import JUST_NOW
from vireo.ops.stack.observe import check_programs, prometheus_url
from vireo.server.errors import VireoError
from vireo.server.home import Home

CASES = tuple(sorted({fault.case for fault in FAULTS}))
"""Numbers of the chaos cases that are run."""
_OBSERVED = {"VIREO_OBSERVE": "true"}
_SECTION = "alerts"
_POLL = 0.5


@dataclass(frozen=True)
class _Bench:
    """A stack with its Prometheus, under load."""

    chain: Chain
    prometheus: Prometheus
    plan: AlertsPlan
    load: SteadyLoad


def measure_alerts(
    home: Home, dataset: str, plan: AlertsPlan, console: Console, cases: Collection[int] = CASES
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
        chosen = [each for each in FAULTS if each.case in cases and each.on_redis == on_redis]
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
    chain: Chain, faults: Sequence[Fault], plan: AlertsPlan, clean: float, console: Console
) -> Iterator[Row]:
    prometheus, ended = Prometheus(prometheus_url(chain.settings)), dict[Fault, float]()
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
            for fault in faults:
                case = _Bench(chain.for_case(fault.case, console), prometheus, plan, load)
                case.chain.findings.progress(fault.title)
                try:
                    yield from runner.run(_with(fault, case))
                except VireoError as error:
                    yield _broken(fault, str(error))
                else:
                    ended[fault] = time.time()
            for fault, since in ended.items():
                if fault.alert:
                    yield runner.run(_resolves(fault, since, bench))
        finally:
            runner.run(loads.aclose())


async def _settled(bench: _Bench) -> None:
    await bench.chain.until_well()
    await asyncio.sleep(bench.plan.warm)


async def _without_fault(bench: _Bench, seconds: float, console: Console) -> list[Row]:
    """Return how many alerts fire, and what doctor finds, while all is well."""
    before, start = len(bench.load.answers), time.time()
    await asyncio.sleep(seconds)
    failing = [each.cause for each in await findings(bench.chain.stack) if each.level == "failing"]
    fired = await _fired(bench, start)
    answers = bench.load.answers[before:]
    failed = sum(bool(each.failure) for each in answers)
    told = ", ".join([*fired, *failing]) or "nothing"
    console.print(f"{len(answers)} slates, {failed} of them failed: {told} was told")
    return [
        _row(f"alerts that fire in {seconds:.0f} s without a fault", len(fired), 0),
        _row("failures that doctor finds without a fault", len(failing), 0),
    ]


async def _with(fault: Fault, bench: _Bench) -> list[Row]:
    """Return when a fault's alert fires, and whether doctor names its cause meanwhile."""
    await _until_peace(fault, bench)
    if not fault.alert:
        return await _tolerated(fault, bench)
    chain, plan = bench.chain, bench.plan

    async def fires() -> bool:
        return fault.alert in await bench.prometheus.firing()

    async with fault.begun(chain):
        took = await chain.findings.until(fires, patience=plan.watched, poll=_POLL)
        found = [each.cause for each in await findings(chain.stack)]
        firing = await bench.prometheus.firing()
    chain.findings.progress(
        f"{fault.alert} after {took:.1f} s; doctor: {', '.join(found) or 'nothing'}; "
        f"{', '.join(sorted(firing)) or 'nothing'} fires"
    )
    return [
        _row(_measure(fault, f"s until {fault.alert}"), min(took, plan.watched), plan.fires),
        _named(fault, bool(found) and found[0] == fault.cause),
    ]


async def _tolerated(fault: Fault, bench: _Bench) -> list[Row]:
    """Return how many alerts fire for what is no fault, and whether doctor says what it is."""
    start = time.time()
    async with fault.begun(bench.chain):
        found = await findings(bench.chain.stack)
        await asyncio.sleep(bench.plan.tolerated)
    fired = await _fired(bench, start)
    bench.chain.findings.progress(
        f"fired: {', '.join(fired) or 'nothing'}; doctor: "
        f"{', '.join(each.cause for each in found) or 'nothing'}"
    )
    alarmed = any(each.level == "failing" for each in found)
    named = any(each.cause == fault.cause for each in found)
    return [
        _row(_measure(fault, "alerts that fire"), len(fired), 0),
        _named(fault, named and not alarmed),
    ]


async def _until_peace(fault: Fault, bench: _Bench) -> None:
    """Return once nothing is left of the fault before that would be taken for this one."""
    await bench.chain.until_well()

    async def peace() -> bool:
        processes = bench.chain.stack.state().processes
        now = datetime.now(UTC)
        ages = [(now - each.ended_at).total_seconds() for each in processes if each.ended_at]
        recent = fault.needs_peace and min(ages, default=math.inf) <= JUST_NOW
        return not recent and fault.alert not in await bench.prometheus.firing()

    patience = bench.plan.resolves
    if math.isinf(await bench.chain.findings.until(peace, patience=patience, poll=_POLL)):
        raise VireoError(f"{fault.alert} fires already")


async def _resolves(fault: Fault, since: float, bench: _Bench) -> Row:
    """Return how long after a fault's end its alert fired."""
    took: float | None = None

    async def resolved() -> bool:
        nonlocal took
        took = await bench.prometheus.resolved(fault.alert, since)
        return took is not None

    await bench.chain.findings.until(resolved, patience=bench.plan.resolves, poll=_POLL)
    figure = time.time() - since if took is None else took
    return _row(_measure(fault, f"s until {fault.alert} resolves"), figure, bench.plan.resolves)


async def _fired(bench: _Bench, start: float) -> list[str]:
    """Return the alerts that fired since a moment, and may not have."""
    fired = await bench.prometheus.fired(start, time.time())
    return sorted(fired.keys() - bench.plan.disregarded)


def _measure(fault: Fault, what: str) -> str:
    return f"case {fault.case}, {fault.title}: {what}"


def _row(measure: str, figure: float, bound: float) -> Row:
    return Row(measure, figure, bound=bound, section=_SECTION)


def _named(fault: Fault, holds: bool) -> Row:
    measure = _measure(fault, f"doctor names {fault.cause} first")
    return Row(measure, float(holds), bound=1, at_least=True, section=_SECTION)


def _broken(fault: Fault, why: str) -> Row:
    return Row(_measure(fault, why), 0, bound=1, at_least=True, section=_SECTION)
