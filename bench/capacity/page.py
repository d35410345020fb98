"""docs/capacity.md, made from the published costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.capacity.limits import limits
from bench.capacity.plan import ROLES, Costs, Demand, Plan, Policy, Prices, plan, role_milliseconds
from bench.capacity.published import CALLERS, CHECKOUT, MEMORY, OWN, SPEED

PAGE = CHECKOUT / "docs/capacity.md"
VIEWERS = (1_000, 100_000, 10_000_000)
_MEASURED = {
    "speed": f"[speed](../{SPEED.replace('.json', '.md')})",
    "memory": f"[memory](../{MEMORY})",
    "own": f"[capacity](../{OWN})",
    "live": "[live](live.md#what-to-send-when)",
    "data": "[data](data.md#how-features-follow-events)",
}

_INTRODUCTION = """
# Capacity

How many pods, cores, gigabytes and dollars a number of daily viewers needs, and what breaks first
as they become more. The costs are those measured on the machine of the benchmarks, 2 cores of Linux
x86_64, over a catalogue of a million videos; yours differ, so measure them (`make bench`). This
page is made of the published measurements by `python -m bench.capacity`, and a test fails if it is
older than they are. For other assumptions:

```sh
python -m bench.capacity --viewers 250000 --slates 40 --plays 3 --core-hour 0.03
```

Nothing here was run with millions of viewers: the costs are measured, the rest is arithmetic.
Leave room, and watch `vireo_rpcs_shed_total` as you grow.
"""

_LOG = """What `VIREO_EVENT_RETENTION` keeps is to fill {filled:.0%} of `VIREO_EVENT_MAX_BYTES`.
[An alert](runbooks/VireoLogFilling.md) fires at 80%. A site that is the only caller is
[refused](event-log.md#a-callers-share) at 82% with two gateways, and before the alert with one. By
the formula:

```sh
python -m bench.capacity --viewers 100000 --retention-days 7    # prints both
```

Events must be kept for longer than consumers, and jobs that make data sets, may stand still; a week
is enough if somebody looks at alerts. The chart's
[example of production](../deploy/helm/values/production.yaml) is for 100,000 viewers and a week.

One process reads the log at a build of features: a day of it if [the data set names its
place](data.md#the-place-in-the-log), else all. Consumers read in parallel, one a partition.
"""


def capacity_page(costs: Costs) -> str:
    """Return the page as Markdown."""
    demand, policy, prices = Demand(0), Policy(), Prices()
    demands = [Demand(viewers) for viewers in VIEWERS]
    plans = [plan(each, costs, policy, prices) for each in demands]
    parts = [
        _INTRODUCTION,
        "## What is assumed\n\n" + _assumptions(demand, policy, prices),
        "## What is measured\n\n" + _measured(costs),
        "## The formula\n\n" + _formula(demand, costs, policy),
        "## For three sites\n\n" + _plans(plans),
        "## The log's limits\n\n" + _LOG.format(filled=policy.log_filled),
        "## What breaks first\n\n" + _limits(demand, costs, policy),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _assumptions(demand: Demand, policy: Policy, prices: Prices) -> str:
    return _table(
        ("", "", "flag"),
        (
            ("slates that a viewer gets in a day", f"{demand.slates:g}", "`--slates`"),
            ("videos of a slate, recorded as impressions by one call", f"{demand.shown:g}", ""),
            (
                "plays and likes of a slate, recorded by a call each",
                f"{demand.plays:g}",
                "`--plays`",
            ),
            ("rate at the busiest time over the day's mean", f"{demand.peak:g}", "`--peak`"),
            ("viewers with a row in the online store, over daily ones", f"{demand.known:g}", ""),
            ("watches in such a row", f"{demand.watches:g}", "`--watches`"),
            ("copies of rows, while features are built", f"{policy.row_copies}", ""),
            ("share of a core in use at the busiest time", f"{policy.utilisation:.0%}", ""),
            ("days that events are kept", f"{policy.retention_days:g}", "`--retention-days`"),
            ("share of the log's maximum bytes that they fill", f"{policy.log_filled:.0%}", ""),
            ("servers of the log that store each event", f"{policy.log_replicas}", ""),
            ("a core for an hour", f"${prices.core_hour:g}", "`--core-hour`"),
            ("a GB of memory for an hour", f"${prices.gb_hour:g}", "`--gb-hour`"),
            ("a GB of disk for a month", f"${prices.disk_gb_month:g}", ""),
        ),
    )


def _measured(costs: Costs) -> str:
    rows = [
        (f"processor time of a slate: {role}", f"{costs.slate_ms[role]:.2f} ms", _MEASURED["speed"])
        for role in ROLES
    ]
    rows += [
        (
            "a call that records events, in the gateway",
            f"{costs.event_call_ms:.3f} ms, and {costs.event_ms * 1000:.0f} µs an event",
            _MEASURED["live"],
        ),
        (
            "events that a consumer applies",
            f"{costs.consumer_rate:,.0f} a second of processor time",
            _MEASURED["data"],
        ),
        (
            "Redis, reads of a slate",
            f"{costs.store_ms * 1000:.0f} µs of processor time",
            _MEASURED["own"],
        ),
        *(
            (f"Redis, row with {watches:,} watches", f"{size / 1000:.0f} kB", _MEASURED["own"])
            for watches, size in costs.row_bytes.items()
        ),
        ("an event in the log, on one server", f"{costs.event_bytes:.0f} bytes", _MEASURED["own"]),
        (
            "the log on one server, acknowledged to one gateway",
            f"{costs.appends['default']:,.0f} messages a second; "
            f"[durable](event-log.md#a-power-cut) {costs.appends['durable']:,.0f}",
            _MEASURED["own"],
        ),
        (
            "`vireo features build`, peak memory",
            f"{costs.features_gb[0]:.2f} GB, and {costs.features_gb[1]:.2f} GB a million watches",
            _MEASURED["memory"],
        ),
    ]
    for role, megabytes in sorted(costs.process_mb.items()):
        source = "speed" if role in ("candidate", "ranking") else "own"
        rows.append((f"memory of a process: {role}", f"{megabytes:,.0f} MB", _MEASURED[source]))
    return (
        f"Slates are those of {CALLERS} callers at a time, through Envoy at the edge and before "
        "both pods. Memory of\npods counts every page of a million videos, which the pods of a "
        "machine share.\n\n" + _table(("", "", "from"), rows)
    )


def _formula(demand: Demand, costs: Costs, policy: Policy) -> str:
    spent = role_milliseconds(demand, costs)
    own = "; ".join(f"{role} {spent[role]:.2f} ms" for role in ROLES)
    return f"""```
slates a second = viewers · slates a day / 86,400 · peak
processes       = ⌈slates a second · processor time of a slate / {policy.utilisation:g}⌉ + 1
consumers       = ⌈events a second / events applied a second / {policy.utilisation:g}⌉
Redis           = viewers · {demand.known:g} · bytes of a row · {policy.row_copies}
log             = viewers · slates a day · events of a slate · days · bytes of an event · servers
VIREO_EVENT_MAX_BYTES = log / servers / {policy.log_filled:g}
replay          = viewers · slates a day · events of a slate · days / events applied a second
```

The processor time of a slate includes its events: {own}, {sum(spent.values()):.1f} ms in all.
At an Envoy a call that records events counts as a third of a slate, which passes one three times;
that share isn't measured. Recording the plays of a slate by one call instead of {demand.plays:g}
saves {(demand.plays - 1) * costs.event_call_ms:.2f} ms of a gateway.

One process more than the load needs may fail at the busiest time. {policy.utilisation:.0%} of a
core is the load at which [the tail was measured](../{SPEED.replace(".json", ".md")}); above it p99
grows, and beyond the limit pods [shed](pods.md#too-many-calls). Each process counts as a core; so
do Redis and each server of the log. Disks of S3, training and traffic aren't counted.
"""


def _plans(plans: Sequence[Plan]) -> str:
    def row(title: str, *cells: str) -> tuple[str, ...]:
        return (title, *cells)

    rows = [
        row("slates a second, busiest", *(f"{each.peak_slates:,.1f}" for each in plans)),
        row("events a second, busiest", *(f"{each.peak_events:,.0f}" for each in plans)),
    ]
    rows += [
        row(f"{role}, cores in use", *(f"{each.cores_used[role]:,.2f}" for each in plans))
        for role in (*ROLES, "consumer", "redis")
    ]
    rows += [
        row(f"**{role}**, processes", *(f"{each.processes[role]:,}" for each in plans))
        for role in (*ROLES, "consumer", "control")
    ]
    rows += [
        row("`VIREO_EVENT_MAX_BYTES`", *(f"{each.log_max_bytes:.0f}" for each in plans)),
        row("rows in Redis", *(f"{each.redis_gb:,.1f} GB" for each in plans)),
        row("events in the log, all servers", *(f"{each.log_gb:,.0f} GB" for each in plans)),
        row("reading 30 days of it", *(f"{30 * each.day_hours:,.1f} h" for each in plans)),
        row("reading a day of it", *(f"{each.day_hours:,.1f} h" for each in plans)),
        row("ids in a log server's memory", *(f"{each.log_memory_gb:,.2f} GB" for each in plans)),
        row("**cores**", *(f"{each.cores:,.0f}" for each in plans)),
        row("**memory**", *(f"{each.memory_gb:,.0f} GB" for each in plans)),
        row("**dollars a month**", *(f"{each.dollars:,.0f}" for each in plans)),
        row(
            "dollars a million slates",
            *(
                f"{each.dollars / (each.peak_slates / Demand(0).peak * 86_400 * 30 / 1e6):,.2f}"
                for each in plans
            ),
        ),
    ]
    titles = ("daily viewers", *(f"{viewers:,}" for viewers in VIEWERS))
    return (
        _table(titles, rows, numbers=True)
        + "\n\nThe smallest site pays for processes that may fail, not for load: `vireo up` on one "
        "machine of 2 cores\nserves it too. "
        + "The largest one is beyond some limits below, which its column doesn't show."
    )


def _limits(demand: Demand, costs: Costs, policy: Policy) -> str:
    rows = [
        (each.part, _rounded(each.daily_viewers), each.why, each.then)
        for each in limits(demand, costs, policy)
    ]
    per_million = costs.process_mb["candidate"]
    return (
        "In the order in which a growing site meets them, by the assumptions above:\n\n"
        + _table(("part", "daily viewers", "because", "then"), rows)
        + "\n\nOne limit doesn't depend on viewers: each candidate and each ranking pod holds the "
        f"whole catalogue,\n{per_million:,.0f} MB for a million videos, since an index isn't "
        f"spread over pods. Ten million need some {per_million / 100:,.0f} GB on each\nmachine, "
        "which its pods share. The control plane isn't on a slate's path: while it is down, "
        "Envoys\nand pods go on with what they have."
    )


def _rounded(viewers: float) -> str:
    """Return a number with two digits that count."""
    digits = len(str(int(viewers))) - 2
    return f"{round(viewers, -digits):,.0f}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    lines = ["--:" if numbers and place else "---" for place in range(len(titles))]
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (tuple(titles), tuple(lines), *rows)
    )


def write(costs: Costs, page: Path = PAGE) -> None:
    """Write the page."""
    page.write_text(capacity_page(costs))
