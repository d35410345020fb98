"""Days of an installation in Kubernetes, as Prometheus records them: a calm one, and what differs.

Three zones have 6 Envoys at the edge, 40 gateways, of which every fourth's own Envoy is recorded,
6 pods of each kind behind them, consumers and control planes, with the labels of the chart's
PodMonitor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

STEP = 30
"""Seconds between two samples."""
START = 60
"""Minutes until it happens."""
LENGTH = 180
"""Minutes of a day that are recorded."""
_STEPS = LENGTH * 60 // STEP
INSTALLATION = "shop/vireo"
FLEET = {"edge": 6, "gateway": 40, "candidate": 6, "ranking": 6, "consumer": 3, "control": 2}
_CLUSTERS = ("gateway", "candidate", "ranking")
_COUNTING = 3
"""Gateways whose counters are recorded, one in each zone: a day of all takes promtool long."""
_SIDECARS = 4
"""Gateways for each one whose Envoy is recorded."""
SLATES = 800.0
"""Slates each step of one of them."""
METHOD = "/vireo.v1.RecommendationService/Recommend"
EDGE = "envoy_cluster_grpc_RecommendationService_Recommend_"
GONE = None
"""The value of what isn't there to be scraped."""


@dataclass(frozen=True)
class Series:
    """A time series while nothing happens."""

    name: str
    labels: Mapping[str, str]
    value: float
    """What it is, or by what it grows in each step."""
    grows: bool = False


@dataclass(frozen=True)
class Deviation:
    """What is different for some time, in all series with a name and these labels."""

    start: float
    """Minutes since the record's begin."""
    end: float
    value: float | None
    name: str = ""
    """Name of the metric that differs; empty if every metric does."""
    but: tuple[str, ...] = ()
    """Metrics that stay as they are if every other one differs."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def concerns(self, series: Series) -> bool:
        """Return whether it changes a series."""
        named = series.name == self.name if self.name else series.name not in self.but
        return named and self.labels.items() <= series.labels.items()


def calm() -> Iterator[Series]:
    """Yield the series of an installation to which nothing happens."""
    for component, count in FLEET.items():
        for number in range(count):
            yield from _process(component, number)
    for component in ("edge", "gateway"):
        yield Series("up", {"installation": "other", "component": component}, 1)


def _process(component: str, number: int) -> Iterator[Series]:
    pod = f"{component}-{number}"
    target = {
        "installation": INSTALLATION,
        "namespace": "shop",
        "pod": pod,
        "instance": pod,
        "zone": "abc"[number % 3],
    }
    if component == "edge" or (component == "gateway" and number % _SIDECARS == 0):
        kind = {"edge": "edge", "gateway": "sidecar"}[component]
        yield from _envoy({**target, "job": "envoy", "component": kind, "container": "envoy"})
    if component == "edge":
        return
    target = {**target, "job": "vireo", "component": component, "container": component}
    if component in _CLUSTERS:
        target["pool"] = "production"
    yield Series("up", target, 1)
    yield Series("scrape_duration_seconds", target, 0.01)
    yield Series("process_start_time_seconds", target, -86400)
    if component != "control":
        yield Series("vireo_log_connected", target, 1)
    match component:
        case "gateway":
            yield Series("vireo_features_behind", target, 0)
            yield Series("vireo_feature_store_circuit_open", target, 0)
            if number < _COUNTING:
                yield from _counters(target)
        case "consumer":
            yield Series("vireo_consumer_lease_held", target, 1)
        case "control":
            yield Series("vireo_discovery_success_age_seconds", {**target, "source": "pods"}, 2)
            yield Series("vireo_s3_requests_total", {**target, "outcome": "ok"}, 3, grows=True)


def _envoy(target: Mapping[str, str]) -> Iterator[Series]:
    yield Series("up", target, 1)
    yield Series("scrape_duration_seconds", target, 0.01)
    yield Series("envoy_control_plane_connected_state", target, 1)
    for cluster in _CLUSTERS:
        members = {**target, "envoy_cluster_name": cluster}
        yield Series("envoy_cluster_membership_total", members, FLEET[cluster])
        # Network policies keep each kind of Envoy from the health checks of others' clusters.
        called = (cluster == "gateway") == (target["component"] == "edge")
        healthy = FLEET[cluster] if called else 0
        yield Series("envoy_cluster_membership_healthy", members, healthy)
    if target["component"] == "edge":
        rate = SLATES * _COUNTING / FLEET["edge"]
        yield Series(f"{EDGE}total", target, rate, grows=True)
        yield Series(f"{EDGE}0", target, 0.9998 * rate, grows=True)
        for status in ("4", "8", "14"):
            yield Series(f"{EDGE}{status}", target, 0.0001 * rate, grows=True)


def _counters(target: Mapping[str, str]) -> Iterator[Series]:
    call = {**target, "method": METHOD}
    for code, share in (("OK", 0.999), ("CANCELLED", 0.001)):
        yield Series("vireo_rpcs_total", {**call, "code": code}, share * SLATES, grows=True)
    shed = {**call, "reason": "queue"}
    yield Series("vireo_rpcs_shed_total", shed, 0, grows=True)
    for bound, share in (("0.03", 0.95), ("0.1", 0.997), ("+Inf", 1)):
        within = {**call, "le": bound}
        yield Series("vireo_rpc_seconds_bucket", within, share * SLATES, grows=True)
    yield Series("vireo_rpc_seconds_count", call, SLATES, grows=True)
    for degraded, share in (("no", 0.999), ("yes", 0.001)):
        slates = {**target, "surface": "home", "degraded": degraded}
        yield Series("vireo_slates_total", slates, share * SLATES, grows=True)
    for kind in ("popular_fallback", "ranking_skipped", "features_missing", "mixed_releases"):
        lacks = {**target, "kind": kind}
        yield Series("vireo_degradations_total", lacks, 0.0002 * SLATES, grows=True)
    yield Series("vireo_events_recorded_total", {**target, "kind": "play"}, 20, grows=True)
    yield Series("vireo_events_refused_total", {**target, "reason": "away"}, 0, grows=True)
    yield Series("vireo_log_used_ratio", target, 0.5)
    yield Series("vireo_features_built_timestamp_seconds", target, -86400)


def recorded(deviations: Sequence[Deviation]) -> list[dict[str, str]]:
    """Return the `input_series` of promtool; the last deviation of a moment counts."""
    return [
        {
            "series": series.name + _selector(series.labels),
            "values": _values(series, [each for each in deviations if each.concerns(series)]),
        }
        for series in calm()
    ]


def _selector(labels: Mapping[str, str]) -> str:
    """Return labels as promtool reads them, without the zone, which a scrape doesn't know."""
    shown = (f'{name}="{value}"' for name, value in labels.items() if name != "zone")
    return "{" + ",".join(shown) + "}"


def _values(series: Series, deviations: Iterable[Deviation]) -> str:
    """Return all samples in promtool's notation."""
    spans = [(_step(each.start), _step(each.end), each.value) for each in deviations]
    bounds = sorted({0, _STEPS, *(at for start, end, _ in spans for at in (start, end))})
    parts, total = list[str](), 0.0
    for start, end in pairwise(bounds):
        value: float | None = series.value
        for begun, ended, other in spans:
            if begun <= start < ended:
                value = other
        count = end - start - 1
        if value is GONE:
            parts.append(f"stale _x{count}" if count else "stale")
            total = 0.0  # it begins anew
        elif series.grows:
            parts.append(f"{total:.4f}+{value:.4f}x{count}")
            total += value * (count + 1)
        else:
            parts.append(f"{value}x{count}")
    return " ".join(parts)


def _step(minute: float) -> int:
    return round(minute * 60 / STEP)


def away(start: float, end: float, seconds: float = 3, **labels: str) -> list[Deviation]:
    """Return what is recorded of processes that are listed, and can't be scraped.

    Args:
        start: minutes.
        end: minutes.
        seconds: how long a scrape takes to fail: until it times out, unless it is refused.
        labels: of the processes.
    """
    return [
        Deviation(start, end, GONE, but=("up", "scrape_duration_seconds"), labels=labels),
        Deviation(start, end, 0, "up", labels=labels),
        Deviation(start, end, seconds, "scrape_duration_seconds", labels=labels),
    ]
