"""All measurements of what requests may ask, one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from bench.live.plan import LivePlan
from bench.live.run import attempted, measured
from bench.live.stack import LiveStack, live_stack
from bench.requests import share
from bench.requests.batch import measure_beside_batch, measure_killed_gateways
from bench.requests.catalogue import Catalogue
from bench.requests.context import has_context_data, measure_context
from bench.requests.explain import measure_explain
from bench.requests.filters import measure_filters
from bench.requests.pages import measure_pages
from bench.requests.plan import RequestsPlan
from bench.requests.share import measure_share
from bench.speed.models import measure_filtered_search
from bench.speed.row import Row
from vireo.server.errors import VireoError
from vireo.server.home import Home

PARTS = ("batch", "filters", "pages", "explain", "share", "search", "context")
"""In the order in which they are measured."""


def measure_requests(
    home: Home,
    dataset: str,
    plan: RequestsPlan,
    console: Console,
    parts: Sequence[str] | None = None,
) -> Iterator[Row]:
    """Yield each figure when it is there; what couldn't be measured is a row that doesn't hold.

    Args:
        home: has the data set, and a release that was trained on it.
        dataset: its name.
        plan: how much to measure.
        console: for progress.
        parts: which measurements; if absent all, or those that `plan.skips_missing` leaves.

    Raises:
        VireoError: the stack can't be set up or started.
    """
    chosen = _parts(home, plan, console) if parts is None else parts
    yield from _on_stack(home, dataset, plan, console, chosen)
    steps: dict[str, Callable[[], list[Row]]] = {
        "search": lambda: _search(home, plan, console),
        "context": lambda: measure_context(home, plan.context, console),
    }
    for name, step in steps.items():
        if name in chosen:
            yield from attempted(console, name, step)


def _parts(home: Home, plan: RequestsPlan, console: Console) -> list[str]:
    """Return all parts, or without those that the plan skips."""
    lacking = {
        name: dataset
        for name, dataset, there in (
            ("search", plan.large, home.staged_release(plan.large).exists()),
            ("context", plan.context, has_context_data(home, plan.context)),
        )
        if plan.skips_missing and not there
    }
    for name, dataset in lacking.items():
        console.print(f"no release of {dataset}: {name} is left out")
    return [name for name in PARTS if name not in lacking]


def _on_stack(
    home: Home, dataset: str, plan: RequestsPlan, console: Console, parts: Sequence[str]
) -> Iterator[Row]:
    """Yield the rows of parts that ask a stack, if there are any."""
    steps: dict[str, Callable[[LiveStack], Coroutine[Any, Any, list[Row]]]] = {
        "batch": lambda live: _batches(live, plan),
        "filters": lambda live: measure_filters(live, home, plan),
        "pages": lambda live: measure_pages(live, plan),
        "explain": lambda live: measure_explain(live, plan),
        # Last: videos that it adds aren't in the data set, with which filters are compared.
        "share": lambda live: _share(live, home, plan),
    }
    chosen = [name for name in steps if name in parts]
    if not chosen:
        return
    live_plan, settings = LivePlan(patience=plan.patience), share.SETTINGS
    with live_stack(home, dataset, live_plan, console, "requests", settings) as live:
        for name in chosen:
            yield from measured(live, name, steps[name])


def _search(home: Home, plan: RequestsPlan, console: Console) -> list[Row]:
    if not home.staged_release(plan.large).exists():
        raise VireoError(
            f"no release of {plan.large} was trained; make one of a million videos with: make "
            f"bench-data, or of your own with: vireo train --data {plan.large}"
        )
    rows = measure_filtered_search(home, plan.large, plan.search, console)
    return [row if plan.timed or row.at_least else replace(row, bound=None) for row in rows]


async def _share(live: LiveStack, home: Home, plan: RequestsPlan) -> list[Row]:
    labels = Catalogue.load(home, live.dataset, random.Random(1)).labels  # noqa: S311
    return await measure_share(live.edge, live.viewers, labels, plan.share, live.console)


async def _batches(live: LiveStack, plan: RequestsPlan) -> list[Row]:
    rows = await measure_beside_batch(live.stack, live.viewers, plan.batch, live.console)
    rows += await measure_killed_gateways(live.stack, plan.batch, live.console)
    await live.healthy()
    return rows
