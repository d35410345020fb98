"""All measurements of what requests may ask, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from rich.console import Console

from bench.live.plan import LivePlan
from bench.live.run import measured
from bench.live.stack import LiveStack, live_stack
from bench.requests.batch import measure_beside_batch, measure_killed_gateways
from bench.requests.filters import measure_filters
from bench.requests.pages import measure_pages
from bench.requests.plan import RequestsPlan
from bench.speed.row import Row
from server.errors import VireoError
from server.home import Home
from server.releases import layout
from server.releases.manifest import Manifest

PARTS = ("batch", "filters", "pages")
"""In the order in which they are measured."""


def measure_requests(
    home: Home, dataset: str, plan: RequestsPlan, console: Console, parts: Sequence[str] = PARTS
) -> Iterator[Row]:
    """Yield each figure when it is there; what couldn't be measured is a row that doesn't hold.

    Args:
        home: has the data set, and a release that was trained on it.
        dataset: its name.
        plan: how much to measure.
        console: for progress.
        parts: which measurements.

    Raises:
        VireoError: the stack can't be set up or started, or the release declares no attributes.
    """
    release = home.trained_release(dataset)
    if "filters" in parts and layout.ATTRIBUTES not in Manifest.read(release).files:
        raise VireoError(
            f"{release} was made by an earlier build and declares no attributes; make another "
            f"with: vireo train --fresh --data {dataset}"
        )
    steps: dict[str, Callable[[LiveStack], Coroutine[Any, Any, list[Row]]]] = {
        "batch": lambda live: _batches(live, plan),
        "filters": lambda live: measure_filters(live, home, plan),
        "pages": lambda live: measure_pages(live, plan),
    }
    with live_stack(home, dataset, LivePlan(patience=plan.patience), console, "requests") as live:
        for name in (name for name in steps if name in parts):
            yield from measured(live, name, steps[name])


async def _batches(live: LiveStack, plan: RequestsPlan) -> list[Row]:
    rows = await measure_beside_batch(live.stack, live.viewers, plan.batch, live.console)
    rows += await measure_killed_gateways(live.stack, plan.batch, live.console)
    await live.healthy()
    return rows
