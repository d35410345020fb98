"""docs/capacity.md, made from the published costs."""

from __future__ import annotations

from pathlib import Path

import jinja2

from bench.capacity.limits import limits
from bench.capacity.plan import ROLES, Costs, Demand, Policy, Prices, plan, role_milliseconds
from bench.capacity.published import CALLERS, CHECKOUT, MEMORY, OWN, SPEED

PAGE = CHECKOUT / "docs/capacity.md"
VIEWERS = (1_000, 100_000, 10_000_000)


def capacity_page(costs: Costs) -> str:
    """Return the page as Markdown."""
    demand, policy, prices = Demand(0), Policy(), Prices()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 (Markdown, of figures and texts of ours)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.md.jinja").render(
        demand=demand,
        policy=policy,
        prices=prices,
        costs=costs,
        spent=role_milliseconds(demand, costs),
        plans=[plan(Demand(viewers), costs, policy, prices) for viewers in VIEWERS],
        limits=limits(demand, costs, policy),
        viewers=VIEWERS,
        roles=ROLES,
        callers=CALLERS,
        speed_page=SPEED.replace(".json", ".md"),
        memory_file=MEMORY,
        own_file=OWN,
        number=format,
        rounded=_rounded,
    )


def _rounded(viewers: float) -> str:
    """Return a number with two digits that count."""
    digits = len(str(int(viewers))) - 2
    return f"{round(viewers, -digits):,.0f}"
