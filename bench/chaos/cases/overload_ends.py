"""Case 18: an overload ends when its cause does, on a quiet machine and beside a busy core.

Callers who repeat at once, also what was refused, could keep an overload alive. So after each one
few such callers ask, from its end on, and none of their calls may be lost once it is over.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext

from bench.chaos.cases.overload import TIMES, flooded
from bench.chaos.chain import Chain
from bench.chaos.findings import CaseResult
from bench.load import Answer, closed_load

CROWD = 32
"""Callers who repeat at once."""
_HURRIED = 40
_DEADLINES = (0.002, 0.08)
"""Shortest and longest deadline of callers in a hurry, seconds."""
_MAX_LOST = {8: 0.0, 16: 0.02}
"""Maximum share of the calls of so many callers that may be lost after an overload."""
_EASY = 8
"""As many callers lose none on any machine, so that also a plan without times judges them."""
_LOST = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")

_Overload = Callable[[Chain], Awaitable[list[Answer]]]


async def run(chain: Chain) -> CaseResult:
    """Cause each overload, quiet and beside a busy core, and let few callers ask after it."""
    answers: list[Answer] = []
    for place, beside in (("quiet", nullcontext()), ("beside a busy core", busy_core())):
        with beside:
            for name, overload in _overloads(chain).items():
                during = await overload(chain)
                rows = []
                if during:
                    whole = sum(map(chain.findings.judge.full, during))
                    rows.append(f"{whole} of {len(during)} calls answered in full")
                for callers in _MAX_LOST:
                    after = await _asked_after(chain, callers)
                    rows.append(_judged(chain, callers, after, f"{place}, {name}"))
                    during += after
                chain.findings.note(f"{place}, {name}: {', '.join(rows)}")
                answers += during
    return chain.findings.result(answers=answers, lost=_LOST)


async def _asked_after(chain: Chain, callers: int) -> list[Answer]:
    """Return the answers to callers who ask from now on."""
    plan, edge = chain.plan, chain.settings.edge
    return await closed_load(edge, chain.viewers, callers, plan.ended, further=plan.ended_requests)


def _judged(chain: Chain, callers: int, answers: list[Answer], after: str) -> str:
    """Judge the last answers to callers who asked after an overload; return what they were."""
    findings, plan = chain.findings, chain.plan
    judged = sorted(answers, key=lambda each: each.at)[-plan.ended_requests :]
    lost = sum(bool(findings.judge.fault(each)) for each in judged)
    degraded = sum(bool(each.degradations) for each in judged)
    row = f"{callers} callers lost {lost} of {len(judged)}"
    if plan.timed or callers == _EASY:
        allowed = _MAX_LOST[callers] * len(judged)
        findings.must(lost <= allowed, f"after the overload ({after}) {row}")
    return f"{row} from {plan.ended:g} s on ({degraded} degraded)"


def _overloads(chain: Chain) -> dict[str, _Overload]:
    overloads: dict[str, _Overload] = {
        f"{CROWD} callers at once": _crowd,
        f"{_HURRIED} callers in a hurry": _hurry,
    }
    if chain.plan.timed:
        overloads["a flood"] = _flood  # by h2load, which may be missing elsewhere
    return overloads


async def _crowd(chain: Chain) -> list[Answer]:
    return await closed_load(chain.settings.edge, chain.viewers, CROWD, chain.plan.crowd)


async def _hurry(chain: Chain) -> list[Answer]:
    chance = random.Random(0)  # noqa: S311
    return await closed_load(
        chain.settings.edge,
        chain.viewers,
        _HURRIED,
        chain.plan.hurry,
        deadline=lambda: chance.uniform(*_DEADLINES),
    )


async def _flood(chain: Chain) -> list[Answer]:
    """Send four times what is sustainable, as case 7 does; its answers aren't kept."""
    async with flooded(chain, TIMES * await chain.sustainable_rate()):
        return []


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy with a process of normal priority during the block."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
