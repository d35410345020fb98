"""What a number of daily viewers needs, by the cost of slates and events, and what breaks first."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vireo.server.event_log.settings import EventLogSettings

MEASURED = Path(__file__).parents[1] / "report" / "capacity.json"
DAY_SECONDS = 86_400
MONTH_HOURS = 730
MONTH_DAYS = 30
PASSES = 3
"""Times that a slate passes an Envoy: at the edge, and before each of two pods."""
ROLES = ("envoy", "gateway", "candidate", "ranking")
"""The processes on a slate's path."""
MACHINE_GB = 64.0
"""Memory of a large machine, for what can't be spread over several."""
MACHINE_CORES = 16
LINK_BYTES = 1.25e9
"""Bytes a second of S3: 10 Gbit/s."""
SWAP_SECONDS = 60.0
"""Seconds that a promotion may take until every pod has fetched the release."""
BUILD_HOURS = 4
"""Hours that reading the log may take at night: a third of the chart's deadline for all steps."""
DAYS_READ = 1.5
"""Days of events that it reads, of an export of last night with a lag of a day."""
FEATURES_DAYS = 30.0
"""Days of watches that features are built from."""
MAX_PARTITIONS = 256
LOG_DEFAULTS = EventLogSettings.model_fields


@dataclass(frozen=True)
class Demand:
    """What viewers do; everything but their number is an assumption that a site replaces."""

    daily_viewers: float
    slates: float = 20.0
    """Slates that a viewer gets in a day."""
    shown: float = 10.0
    """Videos of a slate, each of which is an impression."""
    plays: float = 2.0
    """Further events of a slate: plays, likes, hides. Each is recorded by a call of its own, and
    the impressions of a slate by one."""
    peak: float = 3.0
    """Rate at the busiest time over the day's mean."""
    known: float = 3.0
    """Viewers who have a row in the online store, over the daily ones."""
    watches: float = 100.0
    """Watches in such a row; it remembers the last 5,000."""

    @property
    def events(self) -> float:
        """Events of a slate."""
        return self.shown + self.plays

    @property
    def event_calls(self) -> float:
        """Calls that record the events of a slate."""
        return 1 + self.plays

    @property
    def daily_slates(self) -> float:
        """Slates of a day."""
        return self.daily_viewers * self.slates

    @property
    def daily_events(self) -> float:
        """Events of a day."""
        return self.daily_slates * self.events

    @property
    def peak_slates(self) -> float:
        """Slates a second at the busiest time."""
        return self.daily_slates / DAY_SECONDS * self.peak

    @property
    def peak_events(self) -> float:
        """Events a second at the busiest time."""
        return self.peak_slates * self.events


@dataclass(frozen=True)
class Costs:
    """What was measured; docs/capacity.md says by what."""

    slate_ms: Mapping[str, float]
    """Processor time of a slate in each of ROLES, milliseconds."""
    event_call_ms: float
    """Processor time of a gateway for a call that records events, without them."""
    event_ms: float
    """The same for each event of a call."""
    consumer_rate: float
    """Events that a consumer applies in a second of processor time."""
    store_ms: float
    """Processor time of Redis for the reads of one slate."""
    row_bytes: Mapping[int, float]
    """Memory of Redis for the row of a viewer, by the watches in it."""
    event_bytes: float
    """Bytes of an event in the log, on one server."""
    appends: Mapping[str, float]
    """Messages a second of a log on one server: "default", and "durable" if all are on disk."""
    process_mb: Mapping[str, float]
    """Memory of a process by role: ROLES, consumer and control. Of pods it is that with every page
    of a million videos, which pods of a machine share."""
    features_gb: Sequence[float]
    """Peak memory of `vireo features build`: of none, and of a million watches more."""

    @staticmethod
    def measured() -> Costs:
        """Return those of the last measurements."""
        costs = json.loads(MEASURED.read_text())
        costs["row_bytes"] = {int(watches): size for watches, size in costs["row_bytes"].items()}
        return Costs(**costs)

    def row(self, watches: float) -> float:
        """Return the bytes of a row with some watches, between those that were measured."""
        known = sorted(self.row_bytes)
        return float(np.interp(watches, known, [self.row_bytes[each] for each in known]))


@dataclass(frozen=True)
class Policy:
    """How much room is left, and what a machine has."""

    utilisation: float = 0.6
    """Share of a core that is used at the busiest time: the load at which the tail was measured."""
    retention_days: float = 30.0
    log_replicas: int = 3
    log_filled: float = 0.7
    """Share of the log's maximum bytes that is usual: the alert comes at 80%."""
    row_copies: int = 2
    """Copies of each row while features are built."""
    id_bytes: float = 150.0
    """Memory of the log's server for each id of a message that it remembers, for an hour."""


@dataclass(frozen=True)
class Prices:
    """Dollars; about what large clouds ask for machines on demand, and cheap ones for reserved."""

    core_hour: float = 0.04
    gb_hour: float = 0.005
    disk_gb_month: float = 0.10


@dataclass(frozen=True)
class Plan:
    """What a demand needs at the busiest time."""

    peak_slates: float
    peak_events: float
    cores_used: Mapping[str, float]
    """Cores in use by role, at the busiest time."""
    processes: Mapping[str, int]
    """Processes by role; each of ROLES, and each consumer, uses one core at most."""
    redis_gb: float
    log_gb: float
    """Disk of the log with all replicas."""
    log_max_bytes: float
    """VIREO_EVENT_MAX_BYTES to set, of one server."""
    day_hours: float
    """Time in which one process reads the events of a day."""
    retained_hours: float
    """The same of all events that are kept."""
    log_memory_gb: float
    """Memory of one of the log's servers for ids of messages."""
    cores: float
    """Cores to have, with Redis, the log and the control plane."""
    memory_gb: float
    dollars: float
    """A month."""
    million_slates_dollars: float


def plan(demand: Demand, costs: Costs, policy: Policy, prices: Prices) -> Plan:
    """Return what a demand needs."""
    used = role_milliseconds(demand, costs)
    used = {role: demand.peak_slates * used[role] / 1000 for role in ROLES}
    # One more than the load needs, so that one may fail or restart at the busiest time.
    processes = {role: math.ceil(used[role] / policy.utilisation) + 1 for role in ROLES}
    used["consumer"] = demand.peak_events / costs.consumer_rate
    processes["consumer"] = max(1, math.ceil(used["consumer"] / policy.utilisation))
    processes["control"] = 1
    used["redis"] = demand.peak_slates * costs.store_ms / 1000
    rows = demand.daily_viewers * demand.known * policy.row_copies
    redis_gb = rows * costs.row(demand.watches) / 1e9
    events_gb = demand.daily_events * costs.event_bytes * policy.retention_days / 1e9
    log_gb = events_gb * policy.log_replicas
    ids = demand.daily_slates / 24 * demand.peak * demand.event_calls
    log_memory_gb = ids * policy.id_bytes / 1e9
    redis = max(1, math.ceil(used["redis"] / policy.utilisation))
    cores = sum(processes.values()) + redis + policy.log_replicas
    memory_gb = (
        sum(count * costs.process_mb[role] for role, count in processes.items()) / 1e3
        + redis_gb
        + policy.log_replicas * log_memory_gb
    )
    monthly = MONTH_HOURS * (cores * prices.core_hour + memory_gb * prices.gb_hour)
    dollars = monthly + log_gb * prices.disk_gb_month
    day_hours = demand.daily_events / costs.consumer_rate / 3600
    return Plan(
        peak_slates=demand.peak_slates,
        peak_events=demand.peak_events,
        cores_used=used,
        processes=processes,
        redis_gb=redis_gb,
        log_gb=log_gb,
        log_max_bytes=events_gb * 1e9 / policy.log_filled,
        day_hours=day_hours,
        retained_hours=day_hours * policy.retention_days,
        log_memory_gb=log_memory_gb,
        cores=cores,
        memory_gb=memory_gb,
        dollars=dollars,
        million_slates_dollars=dollars / (demand.daily_slates * MONTH_DAYS / 1e6),
    )


def role_milliseconds(demand: Demand, costs: Costs) -> dict[str, float]:
    """Return the processor time of a slate and its events by role, milliseconds."""
    spent = dict(costs.slate_ms)
    calls = demand.event_calls
    spent["gateway"] += calls * costs.event_call_ms + demand.events * costs.event_ms
    spent["envoy"] += calls * costs.slate_ms["envoy"] / PASSES
    return spent


def limits(demand: Demand, costs: Costs, policy: Policy) -> dict[str, float]:
    """Return the daily viewers that each part carries, what breaks first at first.

    Of `demand` everything but the number of viewers counts. The page says why, and what then.
    """
    one = replace(demand, daily_viewers=1.0)
    spent = role_milliseconds(one, costs)
    slowest = max(ROLES, key=lambda role: spent[role])
    room = policy.utilisation * 1000
    retained = one.daily_events * costs.event_bytes * LOG_DEFAULTS["event_retention"].default
    log_bytes = LOG_DEFAULTS["event_max_bytes"].default * policy.log_filled
    serving_ms = sum(spent.values()) + one.events / costs.consumer_rate * 1000 + costs.store_ms
    base_gb, million_gb = costs.features_gb
    watches = (MACHINE_GB - base_gb) / million_gb * 1e6
    fetched = costs.process_mb["candidate"] * 1e6
    pods_per_viewer = one.peak_slates * (spent["candidate"] + spent["ranking"]) / room
    consumer = policy.utilisation * costs.consumer_rate / one.peak_events
    rows = one.known * policy.row_copies * costs.row(one.watches)
    found = {
        "log": log_bytes / (retained / DAY_SECONDS),
        "nightly": BUILD_HOURS * 3600 * costs.consumer_rate / (DAYS_READ * one.daily_events),
        "durable": costs.appends["durable"] / one.peak_slates / one.event_calls,
        slowest: room / spent[slowest] / one.peak_slates,
        "consumer": consumer,
        "sqlite": MACHINE_CORES * room / serving_ms / one.peak_slates,
        "features": watches / (one.slates * one.plays * FEATURES_DAYS),
        "redis memory": MACHINE_GB * 1e9 / rows,
        "redis core": room / costs.store_ms / one.peak_slates,
        "promotion": SWAP_SECONDS * LINK_BYTES / fetched / pods_per_viewer,
        "partitions": MAX_PARTITIONS * consumer,
    }
    return dict(sorted(found.items(), key=lambda each: each[1]))
