"""Write docs/capacity.md, or print what a number of daily viewers needs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from bench.capacity.plan import DAY_SECONDS, ROLES, Demand, Policy, Prices, limits, plan
from bench.capacity.published import PAGE, capacity_page, published_costs
from vireo.ops.cli.output import print_table, table_of
from vireo.server.errors import VireoError

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
    try:
        costs = published_costs()
    except VireoError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    console = Console(highlight=False)
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
    for limit in limits(demand, costs, policy):
        if limit.daily_viewers < viewers:
            console.print(f"beyond {limit.part}: {limit.then}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(capacity)
