"""`vireo top`: a live table of rates, percentiles, degradations, releases and pods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.doctor import InstallationOption, MetricsOption, PrometheusOption
from vireo.ops.cli.output import AsJson, print_json, print_table, table_of
from vireo.ops.doctor.deployment import ask_all
from vireo.ops.doctor.facts import Page
from vireo.ops.doctor.parts import deployment_of, metrics_probes
from vireo.server.errors import VireoError

_NUMBERS = ("calls/s", "failed/s", "shed/s", "p50 ms", "p99 ms", "at once", "MiB", "cores")
_GOOD_STATES = ("healthy", "answers")
_ANSWERS_SECONDS = 3.0


def top(
    metrics: MetricsOption = None,
    prometheus: PrometheusOption = "",
    installation: InstallationOption = "",
    seconds: Annotated[
        float, typer.Option(min=0.5, max=60, help="Seconds between two tables.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the running stack does, until Ctrl-C: rates, percentiles, degradations, pods.

    For a deployment elsewhere name the metrics of each process with --metrics, or --prometheus.
    --json prints one document and ends.
    """
    console = Console(highlight=False)

    def read() -> Overview:
        return _seen(metrics or (), prometheus, installation, seconds)

    if as_json:
        print_json(_document(read()))
        return
    if once:
        seen = read()
        for line in _lines(seen):
            console.print(line, soft_wrap=True)
        print_table(process_table(seen.processes), console)
        return
    with (
        suppress(KeyboardInterrupt),  # the way to end it
        Live(Text("reading…"), console=console, auto_refresh=False) as live,
    ):
        while True:
            seen = read()
            live.update(Group(*_lines(seen), process_table(seen.processes)), refresh=True)


def _seen(
    metrics: Sequence[tuple[str, str]], prometheus: str, installation: str, seconds: float
) -> Overview:
    """Return what is read within `seconds`, the time between two readings of each page."""
    deployment = deployment_of(
        metrics=metrics, prometheus=prometheus, installation=installation, seconds=seconds
    )
    facts = ask_all([*metrics_probes(deployment)], seconds + _ANSWERS_SECONDS)
    if not facts.pages and deployment.state is None:
        raise VireoError("; ".join(f"{each.what}: {each.why}" for each in facts.unasked))
    processes = deployment.state.processes if deployment.state else ()
    return overview(facts.pages, {each.name: each.state for each in processes})


def _lines(seen: Overview) -> list[Text]:
    """Return the lines above the table: what viewers get, what events do, and the releases."""
    times = ", ".join(
        f"{name} {_number(1000 * value, 1)} ms"
        for name, value in (("p50", seen.p50), ("p95", seen.p95), ("p99", seen.p99))
        if not math.isnan(value)
    )
    slates = f"slates {seen.slates:.1f}/s" + (f": {times}" if times else "")
    lines = [Text(f"{slates}; failed {seen.failures:.1f}/s, shed {seen.shed:.1f}/s")]
    degraded = ", ".join(f"{kind} {rate:.1f}/s" for kind, rate in seen.degradations.items())
    lines.append(Text(f"degraded: {degraded or 'none'}", style="yellow" if degraded else ""))
    lag = f", {seen.lag:.0f} s behind" if seen.lag else ""
    lines.append(Text(f"events {seen.events:.1f}/s, applied {seen.applied:.1f}/s{lag}"))
    releases = ", ".join(f"{release} ({count})" for release, count in seen.releases.items())
    style = "yellow" if len(seen.releases) > 1 else ""
    lines.append(Text(f"releases: {releases or 'none'}", style=style))
    return lines


def process_table(rows: tuple[ProcessRow, ...]) -> Table:
    """Return a table with a line for each process."""
    table = table_of("process", "state", *_NUMBERS, "release", numbers=_NUMBERS, tight=True)
    for row in rows:
        table.add_row(
            row.name,
            Text(row.state, style="" if row.state in _GOOD_STATES else "red"),
            _number(row.calls, 1),
            Text(_number(row.failures, 1), style="red" if row.failures > 0 else ""),
            Text(_number(row.shed, 1), style="yellow" if row.shed > 0 else ""),
            _number(1000 * row.p50, 1),
            _number(1000 * row.p99, 1),
            _number(row.in_flight, 0),
            _number(row.memory / (1 << 20), 0),
            _number(row.cores, 2),
            row.release,
        )
    return table


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _document(seen: Overview) -> dict[str, Any]:
    """Return an overview as JSON has it, which knows no NaN."""
    document = asdict(seen)
    for each in (document, *document["processes"]):
        for name, value in each.items():
            if isinstance(value, float) and math.isnan(value):
                each[name] = None
    return document


_SLATES = "/vireo.v1.RecommendationService/Recommend"
_SECONDS = "vireo_rpc_seconds"
_GOOD = ("OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED")
"""Statuses that aren't a failure of ours; shed calls have a column of their own."""


@dataclass(frozen=True)
class ProcessRow:
    """One process."""

    name: str
    state: str
    """By its supervisor; else "answers", or why it doesn't."""
    release: str
    """The release that it serves; empty if it serves none."""
    calls: float
    """Calls a second, as the following; NaN if its metrics aren't known, as all numbers."""
    failures: float
    shed: float
    p50: float
    """Seconds; NaN without calls, as the following."""
    p99: float
    in_flight: float
    memory: float
    """Resident bytes."""
    cores: float


@dataclass(frozen=True)
class Overview:
    """A deployment at one moment."""

    slates: float
    """Slates a second, by the gateways."""
    p50: float
    """Seconds of a slate; NaN without any, as the following."""
    p95: float
    p99: float
    failures: float
    """Calls of viewers that failed, a second."""
    shed: float
    degradations: Mapping[str, float]
    """Degraded slates a second, by kind."""
    events: float
    """Recorded events a second."""
    applied: float
    """Events applied to features a second."""
    lag: float
    """Seconds since the oldest event that isn't applied came in."""
    releases: Mapping[str, int]
    """Number of processes that serve each release."""
    processes: tuple[ProcessRow, ...]


def overview(pages: Sequence[Page], states: Mapping[str, str]) -> Overview:
    """Return what the pages tell.

    Args:
        pages: each read twice.
        states: the supervisor's word for each process, by name; empty if there is none.
    """
    gateways = [page for page in pages if page.has("vireo_degradations_total")]
    seconds = max((page.seconds for page in pages), default=0.0) or 1.0

    def rate(metric: str, among: Sequence[Page], **labels: str) -> float:
        return sum(page.increase(metric, **labels) for page in among) / seconds

    kinds = sorted(
        {
            labels["kind"]
            for page in gateways
            for labels, _ in page.samples("vireo_degradations_total")
        }
    )
    degradations = {kind: rate("vireo_degradations_total", gateways, kind=kind) for kind in kinds}
    rows = [_row(page, states.get(page.source, "")) for page in pages]
    known = {row.name for row in rows}
    rows += [_row(Page(name), state) for name, state in states.items() if name not in known]
    releases: dict[str, int] = {}
    for row in rows:
        if row.release:
            releases[row.release] = releases.get(row.release, 0) + 1
    return Overview(
        slates=rate("vireo_rpcs_total", gateways, method=_SLATES),
        p50=quantile(gateways, _SECONDS, 0.5, method=_SLATES),
        p95=quantile(gateways, _SECONDS, 0.95, method=_SLATES),
        p99=quantile(gateways, _SECONDS, 0.99, method=_SLATES),
        failures=sum(_failures(page) for page in gateways) / seconds,
        shed=rate("vireo_rpcs_shed_total", gateways),
        degradations={kind: each for kind, each in degradations.items() if each},
        events=rate("vireo_events_recorded_total", gateways),
        applied=rate("vireo_consumer_events_total", pages),
        lag=max((page.value("vireo_consumer_lag_seconds") for page in pages), default=0.0),
        releases=releases,
        processes=tuple(rows),
    )


def _row(page: Page, state: str) -> ProcessRow:
    if not page.now:
        shown = state if state not in ("", "healthy") else page.problem or state
        return ProcessRow(page.source, shown, "", *[math.nan] * 8)
    seconds = page.seconds or 1.0
    serving = [
        labels["release"]
        for labels, value in page.samples("vireo_release_info", role="serving")
        if value
    ]
    return ProcessRow(
        name=page.source,
        state=state or "answers",
        release=serving[0] if serving else "",
        calls=page.increase("vireo_rpcs_total") / seconds,
        failures=_failures(page) / seconds,
        shed=page.increase("vireo_rpcs_shed_total") / seconds,
        p50=quantile([page], _SECONDS, 0.5),
        p99=quantile([page], _SECONDS, 0.99),
        in_flight=page.value("vireo_rpcs_in_flight"),
        memory=page.value("process_resident_memory_bytes"),
        cores=page.increase("process_cpu_seconds_total") / seconds,
    )


def _failures(page: Page) -> float:
    total = page.increase("vireo_rpcs_total")
    return total - sum(page.increase("vireo_rpcs_total", code=code) for code in _GOOD)


def quantile(pages: Iterable[Page], metric: str, share: float, **labels: str) -> float:
    """Return a quantile over all pages, interpolated within its bucket as Prometheus does.

    Args:
        pages: read twice each.
        metric: name of the histogram, without `_bucket`.
        share: 0.5 is the median.
        labels: of the samples that count.

    Returns:
        The quantile; NaN if nothing was counted. The highest bound if it is beyond that.
    """
    counts: dict[float, float] = {}
    for page in pages:
        bounds = {each["le"] for each, _ in page.samples(f"{metric}_bucket", **labels)}
        for le in bounds:
            grown = page.increase(f"{metric}_bucket", **labels, le=le)
            counts[float(le)] = counts.get(float(le), 0.0) + grown
    total = counts.get(math.inf, 0.0)
    if not total:
        return math.nan
    rank, below, begin = share * total, 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= rank:
            if math.isinf(bound):
                return begin
            return begin + (bound - begin) * (rank - below) / (count - below)
        below, begin = count, bound
    return begin
