"""Releases are swapped back and forth under load: no answer may be lost or mixed.

Before the load, every viewer's slate under each release is learned; under load, an answer that
isn't the slate of the release that it declares is mixed. It counts as undeclared unless its
degradations say so.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from bench.live.stack import LiveStack
from bench.load import PAGE, Answer, SteadyLoad, p99
from bench.rows import Row
from vireo.server.errors import VireoError
from vireo.training.evaluation.served import Stack as ServedStack
from vireo.training.evaluation.served import ask_in_full
from vireo.v1 import viewer_pb2

_PAUSE = 6.0
"""Seconds between all pods serving one release and the next swap: longer than pods keep the
previous one, so that each swap loads one."""
_VIEWERS, _LEARNERS = 200, 8
_SETTLING = 1.0
"""Seconds after a swap that still count as swapping."""

Slates = Mapping[tuple[str, str], tuple[str, ...]]
"""Video ids of a slate, best first, by release and viewer."""


def count(answers: Sequence[Answer], slates: Slates) -> Counter[str]:
    """Compare each answer with the slate of its viewer under the release that it declares.

    Returns:
        How many "failed", declare a degradation ("degraded", and "declared" if it is that releases
        are mixed), or aren't the slate of the release that they declare and don't say so
        ("undeclared").
    """
    counts = Counter[str]()
    for answer in answers:
        if answer.failure:
            counts["failed"] += 1
        elif answer.degradations:
            counts["degraded"] += 1
            counts["declared"] += viewer_pb2.DEGRADATION_MIXED_RELEASES in answer.degradations
        elif slates.get((answer.release_id, answer.viewer_id)) != answer.items:
            counts["undeclared"] += 1
    return counts


async def measure_swaps(live: LiveStack) -> list[Row]:
    """Promote two releases in turn, and judge what callers got meanwhile."""
    plan, stack = live.plan, live.stack
    viewers = [f"swapped-{number}" for number in range(_VIEWERS)]  # whom no event changes
    moment = int(time.time())  # the same for all slates, so that a viewer's are the same
    slates: dict[tuple[str, str], tuple[str, ...]] = {}
    for release in stack.releases:
        await stack.promote(release, plan.patience)
        slates |= await _learned(live, viewers, moment, release)
    first, second = stack.releases
    if all(slates[first, viewer] == slates[second, viewer] for viewer in viewers):
        raise VireoError("both releases give the same slates: a mixture could not be detected")
    memory, windows = [0], []
    async with SteadyLoad(live.edge, viewers, plan.swap_rate, plan.swap_deadline, moment) as load:
        await asyncio.sleep(plan.rounds * plan.seconds)
        quiet = p99(load.answers)
        for number in range(1, plan.swaps + 1):
            started = time.monotonic()
            took = await stack.promote(stack.releases[(number + 1) % 2], plan.patience)
            windows.append((started, started + took + _SETTLING))
            live.console.print(f"swap {number} of {plan.swaps}: {took:.2f} s on every pod")
            await asyncio.sleep(_PAUSE)
            memory.append(stack.memory())
    await stack.promote(first, plan.patience)
    busy = [each for each in load.answers if any(a <= each.at <= b for a, b in windows)]
    counts = count(load.answers, slates)
    return [
        Row("slates beside swaps", len(load.answers)),
        Row("slates beside swaps that failed", counts["failed"], bound=0),
        Row("slates of mixed releases that don't say so", counts["undeclared"], bound=0),
        Row("slates of mixed releases that say so", counts["declared"], bound=0),
        Row("degraded slates beside swaps", counts["degraded"]),
        Row("slates during a swap over slates before, p99", p99(busy) / quiet),
        Row("memory of pods after the last swap over the second", memory[-1] / memory[2]),
        Row("slowest swap, s", max(end - start for start, end in windows) - _SETTLING),
    ]


async def _learned(live: LiveStack, viewers: Sequence[str], moment: int, release: str) -> Slates:
    """Return every viewer's slate under the release that is served."""
    edge = ServedStack(live.edge, concurrency=_LEARNERS)
    answers = await ask_in_full(edge, viewers, [moment] * len(viewers))
    for answer in answers:
        if answer.failure or answer.degradations or answer.release_id != release:
            raise VireoError(f"the quiet stack did not answer in full: {answer}")
    return {(release, answer.viewer_id): answer.items[:PAGE] for answer in answers}
