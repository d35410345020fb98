"""All measurements of events, the live catalogue, requests and learning, one after the other."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

from rich.console import Console

from bench.live.effect import measure_catalogue, measure_effect, measure_hides
from bench.live.learn import SHARE, measure_cost, measure_lost, measure_replay
from bench.live.neighbours import measure_batches, measure_share
from bench.live.slates import measure_filters, measure_pages, measure_swaps
from bench.live.stack import LiveStack, live_stack
from bench.rows import Plan, Row, attempted
from bench.simulate import WORLDS, simulate
from tests.builders.redis import running_redis
from vireo.server.home import Home

PARTS = {
    "live": ("swap", "effect", "hide", "catalogue"),
    "requests": ("batch", "filters", "pages", "share"),
    "learn": ("cost", "lost", "replay", *WORLDS),
}
"""By command."""

_Step: TypeAlias = Callable[[LiveStack], Coroutine[Any, Any, list[Row]]]
_RECORDED = {"VIREO_SLATE_SHARE": "1", "VIREO_ARCHIVE_SECONDS": "2"}
_STACKS: Mapping[str, tuple[Mapping[str, str], Mapping[str, _Step]]] = {
    "sqlite": (
        {},
        {
            # What is trending changes slates: at first there were no events.
            "swap": measure_swaps,
            "effect": partial(measure_effect, store="sqlite"),
            "hide": measure_hides,
            "batch": measure_batches,
            "filters": measure_filters,
            "pages": measure_pages,
            "catalogue": measure_catalogue,
            # It adds videos that aren't in the data set, with which filters are compared.
            "share": measure_share,
        },
    ),
    "redis": ({"VIREO_ONLINE_STORE": "redis"}, {"effect": partial(measure_effect, store="redis")}),
    "cost": ({**_RECORDED, "VIREO_SLATE_SHARE": str(SHARE)}, {"cost": measure_cost}),
    "lost": (_RECORDED, {"lost": measure_lost}),
    "replay": (_RECORDED, {"replay": measure_replay}),
}
"""Settings of each stack, and what is measured on it, in this order."""


def measure(
    home: Home, dataset: str, plan: Plan, console: Console, parts: Collection[str]
) -> Iterator[Row]:
    """Yield each figure when it is there; what couldn't be measured is a row that doesn't hold.

    Args:
        home: has the data set, and a release that was trained on it.
        dataset: its name.
        plan: how much to measure.
        console: for progress.
        parts: which of PARTS.

    Raises:
        VireoError: a stack can't be set up or started.
    """
    folder = home.root / "bench" / "live" / "valkey"
    for name, (settings, steps) in _STACKS.items():
        chosen = {part: step for part, step in steps.items() if part in parts}
        if not chosen or (name == "redis" and not plan.timed):
            continue
        with ExitStack() as resources:
            if name == "redis":
                shutil.rmtree(folder, ignore_errors=True)
                redis = resources.enter_context(running_redis(folder, append_only=True))
                settings = {**settings, "VIREO_REDIS_URL": redis.url}
            opened = live_stack(home, dataset, plan, console, name, settings)
            live = resources.enter_context(opened)
            for part, step in chosen.items():
                yield from attempted(console, part, partial(_run, step, live))
    for world in WORLDS:
        if world in parts:
            yield from attempted(console, world, partial(simulate, home, world, plan, console))


def _run(step: _Step, live: LiveStack) -> list[Row]:
    return asyncio.run(step(live))
