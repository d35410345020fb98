"""From a play to the slate that follows: how soon, and what changes in it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from vireo.v1 import event_pb2

from bench.live.near import contents
from bench.live.site import Site, event, ids, opened_site, steady_events
from bench.live.stack import LiveStack
from bench.speed.row import Row
from server.arrays import Float32Array
from server.errors import VireoError

_PAGE = 100
_FIRST = 30
"""Places of a slate in which the kind's share is measured."""
_PLAYS = 3
_KINDS = 6
"""Number of kinds: the rarest of those that a first slate has enough of, since most videos have one
of the frequent tags."""
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
    moved: bool
    """Whether its first videos are nearer by content to those that were played than before."""
    came_back: bool
    """Whether a video that was played was in the slate afterwards."""


async def measure_effect(live: LiveStack, store: str, release: Path) -> list[Row]:
    """Let viewers without history play three videos of one kind each, from their first slate."""
    plan, vectors = live.plan, dict(zip(*contents(release), strict=True))
    viewers = iter(range(plan.viewers))
    effects: list[_Effect] = []

    async def watch(site: Site) -> None:
        for number in viewers:
            effect = await _effect(site, live, vectors, f"newcomer-{store}-{number}")
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
    moved = float(np.mean([each.moved for each in effects]))
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
        Row(
            f"{store}: slates nearer to what was played, share",
            moved,
            bound=_MIN_MOVED,
            at_least=True,
        ),
        Row(f"{store}: share of the kind before", float(np.mean([e.before for e in effects]))),
        Row(f"{store}: share of the kind after", float(np.mean([e.after for e in effects]))),
    ]


async def _effect(
    site: Site, live: LiveStack, vectors: Mapping[str, Float32Array], viewer: str
) -> _Effect:
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
        seconds,
        _share(live, rest, kind),
        _share(live, later, kind),
        moved=_closeness(vectors, later, played) > _closeness(vectors, rest, played),
        came_back=bool(set(played) & set(later)),
    )


def _kind(live: LiveStack, shown: Sequence[str], turn: int) -> str:
    """Return a tag that at least three of the videos have; another one for each viewer."""
    counts = Counter(tag for video in shown for tag in live.tags.get(video, ()))
    all_videos = Counter(tag for tags in live.tags.values() for tag in tags)
    enough = [tag for tag, count in counts.items() if count >= _PLAYS]
    if not enough:
        raise VireoError("no slate has three videos of one kind")
    rarest = sorted(enough, key=lambda tag: (all_videos[tag], tag))[:_KINDS]
    return rarest[turn % len(rarest)]


def _share(live: LiveStack, slate: Sequence[str], kind: str) -> float:
    first = slate[:_FIRST]
    return sum(kind in live.tags.get(video, ()) for video in first) / max(1, len(first))


def _closeness(
    vectors: Mapping[str, Float32Array], slate: Sequence[str], played: Sequence[str]
) -> float:
    """Return the mean cosine of a slate's first videos with those that were played."""
    first = [vectors[video] for video in slate[:_FIRST] if video in vectors]
    return float(np.mean(np.stack(first) @ np.stack([vectors[video] for video in played]).T))
