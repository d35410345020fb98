"""From a play to the slate that follows: how soon, and what changes in it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bench.live.stack import LiveStack
from bench.rows import Row
from bench.site import Site, event, ids
from vireo.server.errors import VireoError
from vireo.v1 import event_pb2

_PAGE = 100
_FIRST = 30
"""Places of a slate in which the kind's share is measured."""
_PLAYS = 3
_ENOUGH = 4
"""A kind is two tags that so many videos of a first slate have together, as Action and Sci-Fi: a
single one says little of a video."""
_AT_A_TIME = 2
"""Viewers who are timed side by side: more would measure the queue before the processors."""
_POLL = 0.01
_MAX_MEDIAN, _MAX_P99 = 0.5, 1.0
_MIN_GROWTH = 2.0
"""Minimum of the mean share of a kind afterwards over the one before."""


@dataclass(frozen=True)
class _Effect:
    seconds: float
    """From the acknowledgement to the first slate without the videos that were played."""
    before: float
    """Share of the kind in the first places of the slate before, without what was played."""
    after: float
    kind: frozenset[str]
    played: Sequence[str]
    later: Sequence[str]
    """The slate afterwards."""
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

    async with live.flow(), live.site() as site:
        # A consumer that has just started may still be opening the features.
        await _effect(site, live, f"first-{store}")
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_AT_A_TIME):
                tasks.create_task(watch(site))
    seconds = [each.seconds for each in effects]
    median, p99 = (float(np.percentile(seconds, part)) for part in (50, 99))
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
        *_shares(live, store, effects),
    ]


def _shares(live: LiveStack, store: str, effects: Sequence[_Effect]) -> list[Row]:
    """Return the kinds' mean share in the first places before and after, and its growth."""
    before = float(np.mean([each.before for each in effects]))
    after = float(np.mean([each.after for each in effects]))
    others = float(np.mean([_share_elsewhere(live, each, effects) for each in effects]))
    growth = after / max(before, 0.1 / _FIRST)
    return [
        Row(f"{store}: share of the kind in the first {_FIRST} before", before),
        Row(f"{store}: share of the kind in the first {_FIRST} after three plays", after),
        Row(f"{store}: share of the kind after three plays of others", others),
        Row(f"{store}: share after over before", growth, bound=_MIN_GROWTH, at_least=True),
    ]


def _share_elsewhere(live: LiveStack, one: _Effect, effects: Sequence[_Effect]) -> float:
    """Return the share of a viewer's kind, without what was played, for who played other kinds."""
    shares = [
        _share(live, [video for video in each.later if video not in one.played], one.kind)
        for each in effects
        if each.kind != one.kind
    ]
    return float(np.mean(shares)) if shares else 0.0


async def _effect(site: Site, live: LiveStack, viewer: str) -> _Effect:
    shown = ids(await site.slate(viewer, _PAGE))
    kind = _kind(live, shown, sum(map(ord, viewer)))
    played = [video for video in shown if kind <= live.tags.get(video, frozenset())][:_PLAYS]
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
        kind,
        played,
        later,
        came_back=bool(set(played) & set(later)),
    )


def _kind(live: LiveStack, shown: Sequence[str], turn: int) -> frozenset[str]:
    """Return two tags that enough of the videos have together; others for each viewer."""
    pairs = [pair for video in shown for pair in combinations(sorted(live.tags.get(video, ())), 2)]
    enough = sorted(pair for pair, count in Counter(pairs).items() if count >= _ENOUGH)
    if not enough:
        raise VireoError(f"no two tags are those of {_ENOUGH} videos of a slate")
    return frozenset(enough[turn % len(enough)])


def _share(live: LiveStack, slate: Sequence[str], kind: frozenset[str]) -> float:
    first = slate[:_FIRST]
    return sum(kind <= live.tags.get(video, frozenset()) for video in first) / max(1, len(first))
