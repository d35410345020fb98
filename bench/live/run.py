"""All measurements of events, the live catalogue and requests, one after the other."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

from rich.console import Console

from bench.live.effect import measure_catalogue, measure_effect, measure_hides
from bench.live.neighbours import measure_batches, measure_share
from bench.live.slates import measure_filters, measure_pages, measure_swaps
from bench.live.stack import LivePlan, LiveStack, live_stack
from bench.rows import Row, attempted
from tests.builders.redis import running_redis
from vireo.server.home import Home

PARTS = {
    # What is trending changes slates: at first there were no events.
    "live": ("swap", "effect", "hide", "catalogue"),
    # The last adds videos that aren't in the data set, with which filters are compared.
    "requests": ("batch", "filters", "pages", "share"),
}
"""By command, in the order in which they are measured."""

_Step: TypeAlias = Callable[[LiveStack], Coroutine[Any, Any, list[Row]]]


def measure(
    home: Home, dataset: str, plan: LivePlan, console: Console, parts: Collection[str]
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
    for store in plan.stores:
        steps: dict[str, _Step] = {
            "swap": measure_swaps,
            "effect": partial(measure_effect, store=store),
            "hide": measure_hides,
            "batch": measure_batches,
            "filters": measure_filters,
            "pages": measure_pages,
            "catalogue": measure_catalogue,
            "share": measure_share,
        }
        chosen = {
            name: step
            for name, step in steps.items()
            if name in parts and (name == "effect" or store == plan.stores[0])
        }
        if not chosen:
            continue
        with ExitStack() as resources:
            settings = {"VIREO_ONLINE_STORE": store}
            if store == "redis":
                shutil.rmtree(folder, ignore_errors=True)
                redis = running_redis(folder, append_only=True)
                settings["VIREO_REDIS_URL"] = resources.enter_context(redis).url
            opened = live_stack(home, dataset, plan, console, store, settings)
            live = resources.enter_context(opened)
            for name, step in chosen.items():
                yield from attempted(console, name, partial(_run, step, live))


def _run(step: _Step, live: LiveStack) -> list[Row]:
    return asyncio.run(step(live))
