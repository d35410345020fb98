"""Run the cases on a stack of its own, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Console

from bench.chaos.case import run_case
from bench.chaos.cases import CASES
from bench.chaos.chain import Chain, running_chain
from bench.chaos.findings import CaseResult
from bench.chaos.places import CannotRunError
from bench.chaos.plan import ChaosPlan
from vireo.server.errors import VireoError
from vireo.server.home import Home

_MIN_RATE = 5.0


def run_chaos(
    home: Home, dataset: str, numbers: Sequence[int], plan: ChaosPlan, console: Console
) -> Iterator[CaseResult]:
    """Run cases by number, and yield each one's result when it is there.

    Raises:
        VireoError: the stack can't be set up or started.
    """
    for on_redis in (False, True):
        if chosen := [number for number in numbers if CASES[number].on_redis == on_redis]:
            with running_chain(home, dataset, plan, console, on_redis=on_redis) as chain:
                yield from _run_all(chain, chosen, console)


def _run_all(chain: Chain, numbers: Sequence[int], console: Console) -> Iterator[CaseResult]:
    for number in numbers:
        case = chain.for_case(number, console)
        case.findings.progress(CASES[number].title)
        if number == numbers[0]:
            chain = replace(chain, plan=asyncio.run(_affordable(case)))
        yield asyncio.run(_run(number, replace(case, plan=chain.plan)))


async def _affordable(chain: Chain) -> ChaosPlan:
    """Return the plan with a rate that this machine sustains with ease."""
    plan, sustainable = chain.plan, await chain.sustainable_rate()
    rate = max(_MIN_RATE, min(plan.rate, plan.share * sustainable))
    chain.findings.progress(
        f"{sustainable:.0f} requests a second are sustainable; it gets {rate:.0f}"
    )
    return replace(plan, rate=rate)


async def _run(number: int, chain: Chain) -> CaseResult:
    try:
        await chain.until_well()
        return await run_case(CASES[number], chain)
    except CannotRunError as error:
        return chain.findings.skipped(str(error))
    except VireoError as error:
        return CaseResult(number, 0, 0, 0, holds=False, note=str(error))
