"""What breaks first: for each part, the daily viewers at which it has no more to give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.capacity.plan import (
    DAY_SECONDS,
    MONTH_DAYS,
    ROLES,
    Costs,
    Demand,
    Policy,
    role_milliseconds,
)
from vireo.server.event_log.settings import EventLogSettings

_MACHINE_GB = 64.0
"""Memory of a large machine, for what can't be spread over several."""
_MACHINE_CORES = 16
_LINK_BYTES = 1.25e9
"""Bytes a second of S3: 10 Gbit/s."""
_SWAP_SECONDS = 60.0
"""Seconds that a promotion may take until every pod has fetched the release."""
_BUILD_HOURS = 4
"""Hours that reading the log may take at night: a third of the chart's deadline for all steps."""
_DAYS_READ = 1.5
"""Days of events that it reads, of an export of last night with a lag of a day."""
_FEATURES_DAYS = 30.0
"""Days of watches that features are built from."""
_MAX_PARTITIONS = 256


@dataclass(frozen=True)
class Limit:
    """A part, and how many daily viewers it carries."""

    part: str
    daily_viewers: float
    why: str
    then: str


def limits(demand: Demand, costs: Costs, policy: Policy) -> Sequence[Limit]:
    """Return what breaks, in order; of `demand` everything but the number of viewers counts."""
    one = replace(demand, daily_viewers=1.0)
    spent = role_milliseconds(one, costs)
    slowest = max(ROLES, key=lambda role: spent[role])
    room = policy.utilisation * 1000
    defaults = EventLogSettings.model_fields
    log_bytes = defaults["event_max_bytes"].default
    retained = one.daily_events * costs.event_bytes * defaults["event_retention"].default
    serving_ms = sum(spent.values()) + one.events / costs.consumer_rate * 1000 + costs.store_ms
    base_gb, million_gb = costs.features_gb
    watches = (_MACHINE_GB - base_gb) / million_gb * 1e6
    fetched = costs.process_mb["candidate"] * 1e6
    pods_per_viewer = one.peak_slates * (spent["candidate"] + spent["ranking"]) / room
    found = [
        Limit(
            "the log's `VIREO_EVENT_MAX_BYTES`",
            log_bytes * policy.log_filled / (retained / DAY_SECONDS),
            f"its default, {log_bytes >> 30} GiB, is {policy.log_filled:.0%} full of the events of "
            f"{MONTH_DAYS} days; a full log refuses events",
            "more bytes, or fewer days (`VIREO_EVENT_RETENTION`), as above",
        ),
        Limit(
            "a nightly build of features",
            _BUILD_HOURS * 3600 * costs.consumer_rate / (_DAYS_READ * one.daily_events),
            f"one process reads {_DAYS_READ:g} days of the log, since the data set, within "
            f"{_BUILD_HOURS} hours, a third of what the chart's nightly job may take",
            "a newer export with a smaller `--log-lag`, or more hours: gateways use the earlier "
            "features meanwhile",
        ),
        Limit(
            "one server of a durable log",
            costs.appends["durable"] / one.peak_slates / one.event_calls,
            f"{costs.appends['durable']:,.0f} messages a second; a slate has {one.event_calls:g}",
            "record the plays of a slate by one call, or use faster disks",
        ),
        Limit(
            f"one {slowest} pod" if slowest in ("candidate", "ranking") else f"one {slowest}",
            room / spent[slowest] / one.peak_slates,
            f"{spent[slowest]:.1f} ms of one core for each slate and its events",
            "more pods: the autoscaler adds them by calls under way",
        ),
        Limit(
            "one consumer",
            policy.utilisation * costs.consumer_rate / one.peak_events,
            f"it applies {costs.consumer_rate:,.0f} events for each second of a core",
            "more partitions. `VIREO_EVENT_PARTITIONS` can't be changed for a log that exists: set "
            "it to what you expect in a year, before the first event",
        ),
        Limit(
            "one machine, with SQLite as online store",
            _MACHINE_CORES * room / serving_ms / one.peak_slates,
            f"SQLite is a file: gateways and consumers share its machine, of {_MACHINE_CORES} "
            "cores",
            "`VIREO_ONLINE_STORE=redis`",
        ),
        Limit(
            "the build of features",
            watches / (one.slates * one.plays * _FEATURES_DAYS),
            f"it holds {million_gb:.2f} GB for each million watches; {_FEATURES_DAYS:.0f} days of "
            f"them fill {_MACHINE_GB:.0f} GB",
            "import a sample of the viewers: the build applies the events of the log, so the rows "
            "of all others have what it still holds",
        ),
        Limit(
            "memory of Redis",
            _MACHINE_GB * 1e9 / (one.known * policy.row_copies * costs.row(one.watches)),
            f"{costs.row(one.watches) / 1e3:.1f} kB for the row of a viewer with {one.watches:g} "
            f"watches, {policy.row_copies} times while features are built; {one.known:.0f} times "
            "as many viewers have one as come in a day",
            "a larger machine. Vireo uses one Redis server, not a cluster of them",
        ),
        Limit(
            "one core of Redis",
            room / costs.store_ms / one.peak_slates,
            f"{costs.store_ms * 1000:.0f} µs of its only thread for the reads of a slate",
            "`io-threads` in its configuration; then two deployments, each with a share of the "
            "viewers",
        ),
        Limit(
            "S3 at a promotion",
            _SWAP_SECONDS * _LINK_BYTES / fetched / pods_per_viewer,
            f"every pod fetches some {fetched / 1e6:,.0f} MB, over 10 Gbit/s, within "
            f"{_SWAP_SECONDS:.0f} s",
            "pods of a machine that share a cache folder fetch once; promote at a quiet time",
        ),
        Limit(
            "`VIREO_EVENT_PARTITIONS`",
            _MAX_PARTITIONS * policy.utilisation * costs.consumer_rate / one.peak_events,
            f"at most {_MAX_PARTITIONS}, each with one consumer",
            "several deployments, each with a share of the viewers",
        ),
    ]
    return sorted(found, key=lambda each: each.daily_viewers)
