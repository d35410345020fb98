"""What a number of daily viewers needs: writes docs/capacity.md, or prints it for one site.

    python -m bench.capacity                     # writes the page
    python -m bench.capacity --viewers 250000    # prints; each assumption is a flag

The measured costs are in report/capacity.json; the page says what gave each.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import jinja2
import numpy as np

from vireo.server.event_log.settings import EventLogSettings

PAGE = Path(__file__).parents[1] / "docs/capacity.md"
_PAGE_SITES = (1_000, 100_000, 10_000_000)
_NEEDED = "## What sites need"
ROLES = ("envoy", "gateway", "candidate", "ranking")
"""The processes on a slate's path."""
DAY_SECONDS, _MONTH_DAYS, _MONTH_HOURS = 86_400, 30, 730
_PASSES = 3
"""Times that a slate passes an Envoy: at the edge, and before each of two pods."""
_ID_BYTES = 150.0
"""Memory of the log's server for each id of a message that it remembers, for an hour."""
_LINK_BYTES = 1.25e9
"""Bytes a second of S3: 10 Gbit/s."""
_MAX_PARTITIONS = 256
_LOG_DEFAULTS = EventLogSettings.model_fields


def _assumed(default: float, what: str, *, may_be_0: bool = False) -> Any:
    return field(default=default, metadata={"what": what, "may_be_0": may_be_0})


@dataclass(frozen=True)
class Site:
    """What is assumed: flags of the command, and a table of the page."""

    viewers: float = 0.0
    slates: float = _assumed(20, "slates that a viewer gets in a day")
    shown: float = _assumed(10, "videos of a slate, recorded as impressions by one call")
    plays: float = _assumed(2, "plays and likes of a slate, recorded by a call each")
    peak: float = _assumed(3, "rate at the busiest time over the day's mean")
    known: float = _assumed(3, "viewers with a row in the online store, over daily ones")
    watches: float = _assumed(100, "watches in such a row")
    row_copies: float = _assumed(2, "copies of rows, while features are built")
    utilisation: float = _assumed(0.6, "share of a core in use at the busiest time")
    retention_days: float = _assumed(30, "days that events are kept")
    log_filled: float = _assumed(0.7, "share of the log's maximum bytes that they fill")
    log_replicas: float = _assumed(3, "servers of the log that store each event")
    feature_days: float = _assumed(30, "days of watches that features are built from")
    days_read: float = _assumed(1.5, "days of the log that a nightly build reads")
    build_hours: float = _assumed(4, "hours that it may read")
    swap_seconds: float = _assumed(60, "seconds until every pod has fetched a promoted release")
    machine_cores: float = _assumed(16, "cores of a large machine")
    machine_gb: float = _assumed(64, "GB of its memory")
    core_hour: float = _assumed(0.04, "dollars for a core for an hour", may_be_0=True)
    gb_hour: float = _assumed(0.005, "dollars for a GB of memory for an hour", may_be_0=True)
    disk_gb_month: float = _assumed(0.1, "dollars for a GB of disk for a month", may_be_0=True)

    @property
    def events(self) -> float:
        """Events of a slate."""
        return self.shown + self.plays

    @property
    def event_calls(self) -> float:
        """Calls that record the events of a slate."""
        return 1 + self.plays

    @property
    def daily_events(self) -> float:
        """Events of a day."""
        return self.viewers * self.slates * self.events

    @property
    def peak_slates(self) -> float:
        """Slates a second at the busiest time."""
        return self.viewers * self.slates / DAY_SECONDS * self.peak


Costs: TypeAlias = Mapping[str, Any]
"""What report/capacity.json has; the page says what each is."""
MEASURED: Costs = json.loads((Path(__file__).parent / "report/capacity.json").read_text())


def role_ms(site: Site, costs: Costs) -> dict[str, float]:
    """Return the processor time of a slate and its events by role, milliseconds."""
    spent, calls = dict(costs["slate_ms"]), site.event_calls
    spent["gateway"] += calls * costs["event_call_ms"] + site.events * costs["event_ms"]
    spent["envoy"] += calls * costs["slate_ms"]["envoy"] / _PASSES
    return spent


def carried(site: Site, costs: Costs) -> dict[str, float]:
    """Return the daily viewers that the machine that was measured carries, by layout."""
    one, machine = replace(site, viewers=1.0), costs["machine"]
    call_ms = costs["event_call_ms"] + costs["slate_ms"]["envoy"] / _PASSES
    event_ms = costs["event_ms"] + 1000 / costs["consumer_rate"]
    events_ms = one.event_calls * call_ms + one.events * event_ms
    room = site.utilisation * machine["cores"] * 1000
    return {
        layout: room / (each["ms"] + events_ms) / one.peak_slates
        for layout, each in machine["layouts"].items()
    }


def _row_bytes(site: Site, costs: Costs) -> float:
    """Return the bytes of a viewer's row, between those that were measured."""
    known = costs["row_bytes"]
    return float(np.interp(site.watches, [*map(int, known)], [*known.values()]))


def needed(site: Site, costs: Costs) -> dict[str, Any]:
    """Return what a site needs at the busiest time, by the names that the page has."""
    room, peak_events = site.utilisation, site.peak_slates * site.events
    used = {role: site.peak_slates * ms / 1000 for role, ms in role_ms(site, costs).items()}
    # One more than the load needs, so that one may fail or restart at the busiest time.
    processes = {role: math.ceil(used[role] / room) + 1 for role in ROLES}
    used["consumer"] = peak_events / costs["consumer_rate"]
    processes["consumer"] = max(1, math.ceil(used["consumer"] / room))
    processes["control"] = 1
    used["redis"] = site.peak_slates * costs["store_ms"] / 1000
    found: dict[str, Any] = {"cores_used": used, "processes": processes}
    found["peak_slates"], found["peak_events"] = site.peak_slates, peak_events
    row_bytes = _row_bytes(site, costs)
    found["redis_gb"] = site.viewers * site.known * site.row_copies * row_bytes / 1e9
    events_bytes = site.daily_events * costs["event_bytes"] * site.retention_days
    found["log_gb"] = events_bytes * site.log_replicas / 1e9
    found["retention"] = site.retention_days * DAY_SECONDS
    found["log_max_bytes"] = events_bytes / site.log_filled
    found["log_memory_gb"] = site.peak_slates * 3600 * site.event_calls * _ID_BYTES / 1e9
    found["day_hours"] = site.daily_events / costs["consumer_rate"] / 3600
    found["retained_hours"] = found["day_hours"] * site.retention_days
    redis = max(1, math.ceil(used["redis"] / room))
    found["cores"] = sum(processes.values()) + redis + site.log_replicas
    memory_mb = sum(count * costs["process_mb"][role] for role, count in processes.items())
    log_memory_gb = site.log_replicas * found["log_memory_gb"]
    found["memory_gb"] = memory_mb / 1e3 + found["redis_gb"] + log_memory_gb
    hourly = found["cores"] * site.core_hour + found["memory_gb"] * site.gb_hour
    found["dollars"] = _MONTH_HOURS * hourly + found["log_gb"] * site.disk_gb_month
    monthly_slates = site.viewers * site.slates * _MONTH_DAYS
    found["million_slates_dollars"] = found["dollars"] / (monthly_slates / 1e6)
    return found


def limits(site: Site, costs: Costs) -> dict[str, float]:
    """Return the daily viewers that each part carries, what breaks first at first.

    Of the site everything but the number of viewers counts. The page says why, and what then.
    """
    one = replace(site, viewers=1.0)
    spent, room = role_ms(one, costs), site.utilisation * 1000
    slowest = max(ROLES, key=lambda role: spent[role])
    kept_days = _LOG_DEFAULTS["event_retention"].default / DAY_SECONDS
    log_bytes = _LOG_DEFAULTS["event_max_bytes"].default * site.log_filled
    serving_ms = (
        sum(spent.values()) + one.events / costs["consumer_rate"] * 1000 + costs["store_ms"]
    )
    base_gb, million_gb = costs["features_gb"]
    watches = (site.machine_gb - base_gb) / million_gb * 1e6
    pods_of_one = one.peak_slates * (spent["candidate"] + spent["ranking"]) / room
    fetched = site.swap_seconds * _LINK_BYTES / (costs["process_mb"]["candidate"] * 1e6)
    consumer = site.utilisation * costs["consumer_rate"] / (one.peak_slates * one.events)
    row_bytes = site.known * site.row_copies * _row_bytes(site, costs)
    read = site.build_hours * 3600 * costs["consumer_rate"]
    found = {
        "log": log_bytes / (one.daily_events * costs["event_bytes"] * kept_days),
        "nightly": read / (site.days_read * one.daily_events),
        "durable": costs["appends"]["durable"] / one.peak_slates / one.event_calls,
        slowest: room / spent[slowest] / one.peak_slates,
        "consumer": consumer,
        "sqlite": site.machine_cores * room / serving_ms / one.peak_slates,
        "features": watches / (one.slates * one.plays * site.feature_days),
        "redis memory": site.machine_gb * 1e9 / row_bytes,
        "redis core": room / costs["store_ms"] / one.peak_slates,
        "promotion": fetched / pods_of_one,
        "partitions": _MAX_PARTITIONS * consumer,
    }
    return dict(sorted(found.items(), key=lambda each: each[1]))


def capacity_page(site: Site, costs: Costs, viewers: Sequence[float] = _PAGE_SITES) -> str:
    """Return the page as Markdown, for sites like one with some numbers of viewers."""
    markdown = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 (Markdown, of figures and texts of ours)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return markdown.get_template("capacity.md.jinja").render(
        site=site,
        assumed={each.name: each.metadata["what"] for each in fields(Site) if each.metadata},
        costs=costs,
        spent=role_ms(site, costs),
        row_bytes=_row_bytes(site, costs),
        viewers=viewers,
        plans=[needed(replace(site, viewers=each), costs) for each in viewers],
        limits=limits(site, costs),
        carried=carried(site, costs),
        roles=ROLES,
        max_partitions=_MAX_PARTITIONS,
        log_gib=_LOG_DEFAULTS["event_max_bytes"].default // 1024**3,
        number=format,
        rounded=lambda viewers: f"{round(viewers, 2 - len(str(int(viewers)))):,.0f}",
    )


def _amount(text: str) -> float:
    """Return the number of a flag that isn't negative."""
    amount = float(text)
    if not 0 <= amount < math.inf:
        raise argparse.ArgumentTypeError(f"{text} isn't 0 or more")
    return amount


def _amount_above_0(text: str) -> float:
    """Return the number of a flag without which there is nothing to plan for."""
    amount = _amount(text)
    if amount == 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return amount


def main() -> None:
    """Write docs/capacity.md, or print its part that begins with what a site needs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for each in fields(Site):
        what = each.metadata.get("what", "daily viewers; without them the page is written")
        name = f"--{each.name.replace('_', '-')}"
        amount = _amount if each.metadata.get("may_be_0") else _amount_above_0
        parser.add_argument(name, type=amount, default=each.default, help=f"{what} (%(default)g)")
    site = Site(**vars(parser.parse_args()))
    if site.viewers:
        page = capacity_page(site, MEASURED, [site.viewers])
        sys.stdout.write(page[page.index(_NEEDED) :])
    else:
        PAGE.write_text(capacity_page(Site(), MEASURED))


if __name__ == "__main__":
    main()
