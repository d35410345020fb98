"""From a play or a hide to the slate that follows: how soon, and whether it stays so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import numpy as np

from bench.live.stack import LiveStack
from bench.rows import Row
from bench.site import Site, event, ids
from bench.stack import until
from vireo.v1 import event_pb2

_PAGE = 20
_PLAYS = 3
_AT_A_TIME = 2
"""Viewers who are timed side by side: more would measure the queue before the processors."""
_HIDING_AT_A_TIME = 4
_POLL = 0.01
_MAX_MEDIAN, _MAX_P99 = 0.5, 1.0

Item = TypeVar("Item")


async def measure_effect(live: LiveStack, store: str) -> list[Row]:
    """Let viewers without history play three videos of their first slate."""
    plan, seconds, came_back = live.plan, list[float](), 0

    async with live.flow(), live.site() as site:

        async def watch(number: int) -> None:
            nonlocal came_back
            took, again = await _effect(site, live, f"newcomer-{store}-{number}")
            seconds.append(took)
            came_back += again

        # A consumer that has just started may still be opening the features.
        await _effect(site, live, f"first-{store}")
        await _for_each(range(plan.viewers), watch, _AT_A_TIME)
    median, p99 = np.percentile(seconds, [50, 99]).tolist()
    what = f"{store}: play to effect beside {plan.rate:.0f} events/s"
    return [
        Row(f"{what}, median s", median, bound=plan.judged(_MAX_MEDIAN)),
        Row(f"{what}, p99 s", p99, bound=plan.judged(_MAX_P99)),
        Row(f"{store}: slates with a video that was played", came_back, bound=0),
    ]


async def _effect(site: Site, live: LiveStack, viewer: str) -> tuple[float, bool]:
    """Return the seconds until plays had their effect, and whether a video came back after it."""
    played = ids(await site.slate(viewer, _PAGE))[:_PLAYS]
    plays = [event(f"{viewer}-{v}", viewer, event_pb2.EVENT_KIND_PLAY, v) for v in played]
    await site.record(plays)

    async def applied() -> bool:
        return not set(played) & set(ids(await site.slate(viewer, _PAGE)))

    seconds = await until(applied, f"the effect of {viewer}'s plays", live.plan.patience, _POLL)
    return seconds, not await applied()


async def measure_hides(live: LiveStack) -> list[Row]:
    """Let viewers hide the first video of their slate, and restart everything in between."""
    hidden: dict[str, str] = {}
    came_back = 0

    async with live.site() as site:

        async def hide(viewer: str) -> None:
            video = hidden[viewer] = ids(await site.slate(viewer, _PAGE))[0]
            hides = [event(f"hide-{viewer}", viewer, event_pb2.EVENT_KIND_HIDE, video)]
            await site.record(hides)

            async def gone() -> bool:
                return video not in ids(await site.slate(viewer, _PAGE))

            await until(gone, "the effect of a hide", live.plan.patience)

        async def look(viewer: str) -> None:
            nonlocal came_back
            came_back += hidden[viewer] in ids(await site.slate(viewer, _PAGE))

        await _for_each(live.viewers, hide, _HIDING_AT_A_TIME)
        live.console.print("hides have their effect; restarting all that serves them")
        for kind in ("consumer", "gateway", "candidate", "ranking"):
            await live.kill(live.stack.names(kind))
            await _for_each(live.viewers, look, _HIDING_AT_A_TIME)
    return [Row(f"hidden videos that came back, of {len(hidden)}", came_back, bound=0)]


async def _for_each(
    items: Iterable[Item], do: Callable[[Item], Awaitable[None]], at_a_time: int
) -> None:
    """Do something for each item, for some at a time."""
    waiting = iter(items)

    async def some() -> None:
        for item in waiting:
            await do(item)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_a_time):
            tasks.create_task(some())
