"""All measurements of what requests may ask, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import Console

from bench.live.run import Step, measured
from bench.live.stack import LivePlan, live_stack
from bench.requests import share
from bench.requests.batch import measure_batches
from bench.requests.plan import RequestsPlan
from bench.requests.slates import Catalogue, measure_explain, measure_filters, measure_pages
from bench.rows import Row, attempted
from bench.speed.models import measure_filtered_search
from vireo.server.errors import VireoError
from vireo.server.home import Home

PARTS = ("batch", "filters", "pages", "explain", "share", "search")
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
        parts: which measurements; if absent all that `plan.skips_missing` leaves.

    Raises:
        VireoError: the stack can't be set up or started.
    """
    large = home.staged_release(plan.large).exists()
    chosen = parts or [
        name for name in PARTS if name != "search" or large or not plan.skips_missing
    ]
    steps: dict[str, Step] = {
        "batch": lambda live: measure_batches(live, plan.batch),
        "filters": lambda live: measure_filters(live, home, plan),
        "pages": lambda live: measure_pages(live, plan),
        "explain": lambda live: measure_explain(live, plan),
        # Last: videos that it adds aren't in the data set, with which filters are compared.
        "share": lambda live: share.measure_share(live, Catalogue.load(home, dataset).labels, plan),
    }
    on_stack = [name for name in steps if name in chosen]
    if on_stack:
        live_plan, settings = LivePlan(patience=plan.patience), share.SETTINGS
        with live_stack(home, dataset, live_plan, console, "requests", settings) as live:
            for name in on_stack:
                yield from measured(live, name, steps[name])
    if "search" in chosen:
        yield from attempted(console, "search", lambda: _search(home, plan, console))
    elif parts is None:
        console.print(f"no release of {plan.large}: search is left out")


def _search(home: Home, plan: RequestsPlan, console: Console) -> list[Row]:
    if not home.staged_release(plan.large).exists():
        raise VireoError(
            f"no release of {plan.large} was trained; make one of a million videos with: make "
            f"bench-data, or of your own with: vireo train --data {plan.large}"
        )
    rows = measure_filtered_search(home, plan.large, plan.search, console)
    return [row if plan.timed or row.at_least else replace(row, bound=None) for row in rows]
