"""Write docs/capacity.md, or print what a number of daily viewers needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import jinja2
import typer
from rich.console import Console

from bench.capacity import plan as facts
from bench.capacity.plan import (
    DAY_SECONDS,
    ROLES,
    Costs,
    Demand,
    Policy,
    Prices,
    limits,
    plan,
    role_milliseconds,
)
from vireo.ops.cli.output import print_table, table_of

PAGE = Path(__file__).parents[2] / "docs/capacity.md"
_VIEWERS = (1_000, 100_000, 10_000_000)
_DEFAULT, _POLICY, _PRICES = Demand(0), Policy(), Prices()


def capacity(
    viewers: Annotated[float, typer.Option(help="Daily viewers; 0 to write the page.", min=0)] = 0,
    slates: Annotated[float, typer.Option(help="Slates of a viewer in a day.")] = _DEFAULT.slates,
    plays: Annotated[float, typer.Option(help="Plays and likes of a slate.")] = _DEFAULT.plays,
    watches: Annotated[float, typer.Option(help="Watches in a viewer's row.")] = _DEFAULT.watches,
    retention_days: Annotated[
        float, typer.Option(help="Days that events are kept.")
    ] = _POLICY.retention_days,
    peak: Annotated[float, typer.Option(help="Busiest rate over the mean.")] = _DEFAULT.peak,
    core_hour: Annotated[float, typer.Option(help="Dollars.")] = _PRICES.core_hour,
    gb_hour: Annotated[float, typer.Option(help="Dollars.")] = _PRICES.gb_hour,
) -> None:
    """Write docs/capacity.md, or print what a number of daily viewers needs."""
    costs, console = Costs.measured(), Console(highlight=False)
    if not viewers:
        PAGE.write_text(capacity_page(costs))
        console.print(f"wrote {PAGE}")
        return
    demand = Demand(viewers, slates=slates, plays=plays, peak=peak, watches=watches)
    policy = Policy(retention_days=retention_days)
    prices = Prices(core_hour=core_hour, gb_hour=gb_hour)
    needed = plan(demand, costs, policy, prices)
    table = table_of("", "processes", "cores in use", numbers=("processes", "cores in use"))
    for role in (*ROLES, "consumer"):
        table.add_row(role, f"{needed.processes[role]:,}", f"{needed.cores_used[role]:,.2f}")
    print_table(table, console)
    console.print(
        f"{needed.peak_slates:,.1f} slates/s at the busiest time; {needed.cores:,.0f} cores, "
        f"{needed.memory_gb:,.0f} GB of memory, {needed.log_gb:,.0f} GB of log; "
        f"{needed.dollars:,.0f} dollars a month; "
        f"VIREO_EVENT_RETENTION={retention_days * DAY_SECONDS:.0f} and "
        f"VIREO_EVENT_MAX_BYTES={needed.log_max_bytes:.0f}; {needed.day_hours:,.1f} h for a build "
        "of features to read a day of the log",
        soft_wrap=True,
    )
    for part, limit in limits(demand, costs, policy).items():
        if limit < viewers:
            console.print(f"beyond what docs/capacity.md says of {part}", soft_wrap=True)


def capacity_page(costs: Costs) -> str:
    """Return the page as Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 (Markdown, of figures and texts of ours)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.md.jinja").render(
        demand=_DEFAULT,
        policy=_POLICY,
        prices=_PRICES,
        costs=costs,
        spent=role_milliseconds(_DEFAULT, costs),
        plans=[plan(Demand(viewers), costs, _POLICY, _PRICES) for viewers in _VIEWERS],
        limits=limits(_DEFAULT, costs, _POLICY),
        viewers=_VIEWERS,
        roles=ROLES,
        facts=facts,
        log_defaults=facts.LOG_DEFAULTS,
        number=format,
        rounded=_rounded,
    )


def _rounded(viewers: float) -> str:
    """Return a number with two digits that count."""
    digits = len(str(int(viewers))) - 2
    return f"{round(viewers, -digits):,.0f}"


if __name__ == "__main__":
    typer.run(capacity)
