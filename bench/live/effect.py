"""From a play to the slate that follows: how soon, and what changes in it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from vireo.v1 import event_pb2

from bench.live.site import Site, event, ids, opened_site, steady_events
from bench.live.stack import LiveStack
from bench.speed.row import Row
from server.errors import VireoError

_PAGE = 100
_PLAYS = 3
_AT_A_TIME = 2
"""Viewers who are timed side by side: more would measure the queue before the processors."""
_POLL = 0.01
_MAX_MEDIAN, _MAX_P99 = 0.5, 1.0
_MIN_MOVED = 0.9


@dataclass(frozen=True)
class _Effect:
    seconds: float
    """From the acknowledgement to the first slate without the videos that were played."""
    before: float
    """Share of the kind that was played in the slate before, without those videos."""
    after: float
    came_back: bool
    """Whether a video that was played was in the slate afterwards."""


async def measure_effect(live: LiveStack, store: str) -> list[Row]:
    """Let viewers without history play three videos of one kind each, from their first slate."""
    plan = live.plan
    viewers = iter(range(plan.viewers))
    effects: list[_Effect] = []

    async def watch(site: Site) -> None:
        for number in viewers:
            effect = await _effect(site, live, f"newcomer-{store}-{number}")
            effects.append(effect)

    async with (
        opened_site(live.edge, plan.patience) as beside,
        steady_events(beside, plan.rate, live.videos),
        opened_site(live.edge, plan.patience) as site,
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(_AT_A_TIME):
            tasks.create_task(watch(site))
    seconds = [each.seconds for each in effects]
    median, p99 = (float(np.percentile(seconds, part)) for part in (50, 99))
    moved = float(np.mean([each.after > each.before for each in effects]))
    timed = plan.timed
    what = f"{store}: play to effect beside {plan.rate:.0f} events/s"
    return [
        Row(f"{what}, median s", median, bound=_MAX_MEDIAN if timed else None),
        Row(f"{what}, p99 s", p99, bound=_MAX_P99 if timed else None),
        Row(
            f"{store}: slates with a video that was played",
            sum(each.came_back for each in effects),
            bound=0,
        ),
        Row(f"{store}: slates that moved to the kind", moved, bound=_MIN_MOVED, at_least=True),
        Row(f"{store}: share of the kind before", float(np.mean([e.before for e in effects]))),
        Row(f"{store}: share of the kind after", float(np.mean([e.after for e in effects]))),
    ]


async def _effect(site: Site, live: LiveStack, viewer: str) -> _Effect:
    shown = ids(await site.slate(viewer, _PAGE))
    kind = _kind(live, shown, sum(map(ord, viewer)))
    played = [video for video in shown if kind in live.tags.get(video, ())][:_PLAYS]
    await site.record(
        [
            event(f"{viewer}-{number}", viewer, event_pb2.EVENT_KIND_PLAY, video)
            for number, video in enumerate(played)
        ]
    )
    begun = time.monotonic()
    while True:
        slate = ids(await site.slate(viewer, _PAGE))
        seconds = time.monotonic() - begun
        if not set(played) & set(slate):
            break
        if seconds > live.plan.patience:
            raise VireoError(f"the plays of {viewer} have no effect")
        await asyncio.sleep(_POLL)
    later = ids(await site.slate(viewer, _PAGE))
    rest = [video for video in shown if video not in played]
    return _Effect(
        seconds, _share(live, rest, kind), _share(live, later, kind), bool(set(played) & set(later))
    )


def _kind(live: LiveStack, shown: Sequence[str], turn: int) -> str:
    """Return a tag that at least three of the videos have; another one for each viewer."""
    counts = Counter(tag for video in shown for tag in live.tags.get(video, ()))
    enough = sorted(tag for tag, count in counts.items() if count >= _PLAYS)
    if not enough:
        raise VireoError("no slate has three videos of one kind")
    return enough[turn % len(enough)]


def _share(live: LiveStack, videos: Collection[str], kind: str) -> float:
    return sum(kind in live.tags.get(video, ()) for video in videos) / max(1, len(videos))
