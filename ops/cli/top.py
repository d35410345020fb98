"""`vireo top`: a live table of rates, percentiles, degradations, releases and pods."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.doctor import InstallationOption, MetricsOption, PrometheusOption
from vireo.ops.cli.options import JsonOption
from vireo.ops.cli.output import print_json, print_table, table_of
from vireo.ops.doctor.deployment import Deployment, ask_all
from vireo.ops.doctor.facts import Facts, Page
from vireo.ops.doctor.parts import completed
from vireo.ops.doctor.probes.metrics import probes
from vireo.server.errors import NoAnswerError

_NUMBERS = {
    "calls/s": ("calls", 1, 1),
    "failed/s": ("failures", 1, 1),
    "shed/s": ("shed", 1, 1),
    "p50 ms": ("p50", 1000, 1),
    "p99 ms": ("p99", 1000, 1),
    "at once": ("inFlight", 1, 0),
    "MiB": ("memory", 1 / (1 << 20), 0),
    "cores": ("cores", 1, 2),
}
"""Columns: the name of each in a process of the document, its unit's factor, and its digits."""
_GOOD_STATES = ("healthy", "answers")
_ALARMING = {"failures": "red", "shed": "yellow"}
"""Styles of numbers that should be 0."""
_ANSWERS_SECONDS = 3.0
_SLATES = "/vireo.v1.RecommendationService/Recommend"
_SECONDS = "vireo_rpc_seconds"
_GOOD = ("OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED")
"""Statuses that aren't a failure of ours; shed calls have a column of their own."""


def top(
    metrics: MetricsOption = None,
    prometheus: PrometheusOption = "",
    installation: InstallationOption = "",
    seconds: Annotated[
        float, typer.Option(min=0.5, max=60, help="Seconds between two tables.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the running stack does, until Ctrl-C: rates, percentiles, degradations, pods.

    For a deployment elsewhere name the metrics of each process with --metrics, or --prometheus.
    --json prints one document and ends.

    vireo top --once
    """
    console = Console(highlight=False)

    def read() -> dict[str, Any]:
        return _seen(metrics or (), prometheus, installation, seconds)

    if as_json:
        print_json(read())
        return
    if once:
        seen = read()
        for line in _lines(seen):
            console.print(line, soft_wrap=True)
        print_table(process_table(seen["processes"]), console)
        return
    with (
        suppress(KeyboardInterrupt),  # the way to end it
        Live(Text("reading…"), console=console, auto_refresh=False) as live,
    ):
        while True:
            seen = read()
            live.update(Group(*_lines(seen), process_table(seen["processes"])), refresh=True)


def _seen(
    metrics: Sequence[tuple[str, str]], prometheus: str, installation: str, seconds: float
) -> dict[str, Any]:
    """Return what is read within `seconds`, the time between two readings of each page."""
    named = Deployment(
        metrics=dict(metrics), prometheus=prometheus, installation=installation, window=seconds
    )
    deployment = completed(named)
    facts = ask_all([*probes(deployment)], seconds + _ANSWERS_SECONDS)
    if not facts.pages and deployment.state is None:
        raise NoAnswerError("; ".join(f"{each.what}: {each.why}" for each in facts.unasked))
    processes = deployment.state.processes if deployment.state else ()
    return overview(facts.pages, {each.name: each.state for each in processes})


def _lines(seen: Mapping[str, Any]) -> list[Text]:
    """Return the lines above the table: what viewers get, what events do, and the releases."""
    times = ", ".join(
        f"{name} {1000 * seen[name]:.1f} ms"
        for name in ("p50", "p95", "p99")
        if seen[name] is not None
    )
    slates = f"slates {seen['slates']:.1f}/s" + (f": {times}" if times else "")
    degraded = ", ".join(f"{kind} {rate:.1f}/s" for kind, rate in seen["degradations"].items())
    lag = f", {seen['lag']:.0f} s behind" if seen["lag"] else ""
    releases = ", ".join(f"{release} ({count})" for release, count in seen["releases"].items())
    return [
        Text(f"{slates}; failed {seen['failures']:.1f}/s, shed {seen['shed']:.1f}/s"),
        Text(f"degraded: {degraded or 'none'}", style="yellow" if degraded else ""),
        Text(f"events {seen['events']:.1f}/s, applied {seen['applied']:.1f}/s{lag}"),
        Text(f"releases: {releases or 'none'}", "yellow" if len(seen["releases"]) > 1 else ""),
    ]


def process_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a line for each process."""
    table = table_of("process", "state", *_NUMBERS, "release", numbers=[*_NUMBERS], tight=True)
    for row in rows:
        numbers = [
            Text(
                "" if row[name] is None else f"{row[name] * factor:.{digits}f}",
                _ALARMING.get(name, "") if row[name] else "",
            )
            for name, factor, digits in _NUMBERS.values()
        ]
        state = Text(row["state"], "" if row["state"] in _GOOD_STATES else "red")
        table.add_row(row["name"], state, *numbers, row["release"])
    return table


def overview(pages: Sequence[Page], states: Mapping[str, str]) -> dict[str, Any]:
    """Return what the pages tell of a deployment, as a JSON document.

    Rates are a second's, times in seconds; what isn't known is null.

    Args:
        pages: each read twice.
        states: the supervisor's word for each process, by name; empty if there is none.
    """
    facts = Facts(pages=tuple(pages))
    gateways = Facts(pages=tuple(each for each in pages if each.has("vireo_degradations_total")))
    seconds = facts.seconds or 1.0
    degradations = gateways.increases("vireo_degradations_total", "kind")
    rows = [_row(page, states.get(page.source, "")) for page in pages]
    known = {row["name"] for row in rows}
    rows += [_row(Page(name), state) for name, state in states.items() if name not in known]
    return {
        "slates": gateways.increase("vireo_rpcs_total", method=_SLATES) / seconds,
        "p50": quantile(gateways, _SECONDS, 0.5, method=_SLATES),
        "p95": quantile(gateways, _SECONDS, 0.95, method=_SLATES),
        "p99": quantile(gateways, _SECONDS, 0.99, method=_SLATES),
        "failures": _failures(gateways) / seconds,
        "shed": gateways.increase("vireo_rpcs_shed_total") / seconds,
        "degradations": {kind: count / seconds for kind, count in degradations.items() if count},
        "events": gateways.increase("vireo_events_recorded_total") / seconds,
        "applied": facts.increase("vireo_consumer_events_total") / seconds,
        "lag": max((page.value("vireo_consumer_lag_seconds") for page in pages), default=0.0),
        "releases": dict(Counter(row["release"] for row in rows if row["release"])),
        "processes": rows,
    }


def _row(page: Page, state: str) -> dict[str, Any]:
    """Return a process: its state by its supervisor, else "answers" or why it doesn't."""
    if not page.now:
        shown = state if state not in ("", "healthy") else page.problem or state
        unknown = {name: None for name, _, _ in _NUMBERS.values()}
        return {"name": page.source, "state": shown, "release": "", **unknown}
    facts, seconds = Facts(pages=(page,)), page.seconds or 1.0
    roles = page.samples("vireo_release_info", role="serving")
    return {
        "name": page.source,
        "state": state or "answers",
        "release": next((labels["release"] for labels, value in roles if value), ""),
        "calls": page.increase("vireo_rpcs_total") / seconds,
        "failures": _failures(facts) / seconds,
        "shed": page.increase("vireo_rpcs_shed_total") / seconds,
        "p50": quantile(facts, _SECONDS, 0.5),
        "p99": quantile(facts, _SECONDS, 0.99),
        "inFlight": page.value("vireo_rpcs_in_flight"),
        "memory": page.value("process_resident_memory_bytes"),
        "cores": page.increase("process_cpu_seconds_total") / seconds,
    }


def _failures(facts: Facts) -> float:
    codes = facts.increases("vireo_rpcs_total", "code")
    return sum(count for code, count in codes.items() if code not in _GOOD)


def quantile(facts: Facts, metric: str, share: float, **labels: str) -> float | None:
    """Return a quantile over all pages, interpolated within its bucket as Prometheus does.

    Args:
        facts: pages that were read twice each.
        metric: name of the histogram, without `_bucket`.
        share: 0.5 is the median.
        labels: of the samples that count.

    Returns:
        The quantile; None if nothing was counted. The highest bound if it is beyond that.
    """
    grown = facts.increases(f"{metric}_bucket", "le", **labels)
    counts = {float(le): count for le, count in grown.items()}
    total = counts.get(math.inf, 0.0)
    if not total:
        return None
    rank, below, begin = share * total, 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= rank:
            if math.isinf(bound):
                return begin
            return begin + (bound - begin) * (rank - below) / (count - below)
        below, begin = count, bound
    return begin
