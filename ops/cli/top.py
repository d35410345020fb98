"""`vireo top`: a live table of rates, percentiles, degradations, releases and pods."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from vireo.ops.cli.doctor import (
    InstallationOption,
    MetricsOption,
    PrometheusOption,
    deployment_of,
)
from vireo.ops.cli.output import AsJson, print_json, print_table, table_of
from vireo.server.errors import VireoError

if TYPE_CHECKING:
    from vireo.ops.doctor.overview import Overview, ProcessRow

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
    if once or as_json:
        seen = _seen(metrics or [], prometheus, installation, seconds)
        if as_json:
            print_json(_document(seen))
        else:
            _print(seen)
        return
    from rich.live import Live

    console = Console(highlight=False)
    with (
        suppress(KeyboardInterrupt),  # the way to end it
        Live(Text("reading…"), console=console, auto_refresh=False) as live,
    ):
        while True:
            seen = _seen(metrics or [], prometheus, installation, seconds)
            live.update(Group(*_lines(seen), process_table(seen.processes)), refresh=True)


def _seen(metrics: list[str], prometheus: str, installation: str, seconds: float) -> Overview:
    """Return what is read within `seconds`, the time between two readings of each page."""
    from vireo.ops.doctor.deployment import ask_all
    from vireo.ops.doctor.overview import overview
    from vireo.ops.doctor.parts import metrics_probes

    deployment = deployment_of("", "", "", metrics, prometheus, installation, seconds=seconds)
    facts = ask_all([*metrics_probes(deployment)], seconds + _ANSWERS_SECONDS)
    if not facts.pages and deployment.state is None:
        raise VireoError("; ".join(f"{each.what}: {each.why}" for each in facts.unasked))
    processes = deployment.state.processes if deployment.state else ()
    return overview(facts.pages, {each.name: each.state for each in processes})


def _print(seen: Overview) -> None:
    console = Console(highlight=False)
    for line in _lines(seen):
        console.print(line, soft_wrap=True)
    print_table(process_table(seen.processes), console)


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
