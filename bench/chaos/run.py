"""Runs the cases on a stack of its own, one after the other.

vireo bench chaos
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

from rich.console import Console

from bench.chaos.capacity import sustainable_rate
from bench.chaos.cases import (
    control_plane,
    faulty_pods,
    hanging_pod,
    hostile_callers,
    killed_pods,
    missing_parts,
    network_cut,
    overload,
    rolling_restarts,
    short_deadline,
)
from bench.chaos.chain import Chain
from bench.chaos.home import prepared
from bench.chaos.plan import ChaosPlan
from bench.chaos.result import CaseResult, Judge
from server.errors import VireoError
from server.home import Home
from training.features.watches import load_watches

_MODULES: tuple[ModuleType, ...] = (
    killed_pods,
    rolling_restarts,
    hanging_pod,
    faulty_pods,
    missing_parts,
    control_plane,
    overload,
    network_cut,
    short_deadline,
    hostile_callers,
)

_LEAST_RATE = 5.0


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong."""

    title: str
    run: Callable[[Chain], Awaitable[CaseResult]]


CASES = {module.CASE: Case(module.TITLE, module.run) for module in _MODULES}
"""By number."""


def run_chaos(
    home: Home, dataset: str, numbers: Sequence[int], plan: ChaosPlan, console: Console
) -> Iterator[CaseResult]:
    """Runs cases by number, and gives each one's result when it is there.

    Raises:
        VireoError: the stack can't be set up or started.
    """
    stack = prepared(home, dataset, console)
    judge = _judge(stack.home, dataset, plan.viewers)
    with stack.running():
        for number in numbers:

            def tell(line: str, number: int = number) -> None:
                console.print(f"{number}: {line}", soft_wrap=True)

            tell(CASES[number].title)
            chain = Chain(stack.settings, stack.environment, dataset, judge, plan, tell)
            if number == numbers[0]:
                plan = asyncio.run(_affordable(chain))
                chain = replace(chain, plan=plan)
            yield asyncio.run(_run(number, CASES[number], chain))


async def _affordable(chain: Chain) -> ChaosPlan:
    """The plan with a rate that leaves this machine room."""
    plan = chain.plan
    sustainable = await sustainable_rate(chain, 2 * plan.quiet)
    rate = max(_LEAST_RATE, min(plan.rate, plan.share * sustainable))
    chain.tell(f"{sustainable:.0f} requests a second are sustainable; the load has {rate:.0f}")
    return replace(plan, rate=rate)


async def _run(number: int, case: Case, chain: Chain) -> CaseResult:
    try:
        await chain.until_well()
        return await case.run(chain)
    except VireoError as error:
        return CaseResult(number, 0, 0, 0, holds=False, note=str(error))


def _judge(home: Home, dataset: str, viewers: int) -> Judge:
    """Who is asked for: viewers that the data set knows first, and strangers after them."""
    watches = load_watches(home, dataset)
    watches = watches[watches["part"] != "test"]  # what is held out, gateways don't know of
    by_viewer = watches.groupby("viewer_id", sort=False)["video_id"].agg(frozenset).head(viewers)
    known = {str(viewer): watched for viewer, watched in by_viewer.items()}
    strangers = (f"stranger-{number}" for number in range(viewers - len(known)))
    return Judge({**known, **dict.fromkeys(strangers, frozenset())})
