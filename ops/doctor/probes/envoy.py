"""Envoy's own view, from its admin interface: its pods, and what callers do at the edge."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import fmean
from typing import Any, TypeAlias
from urllib.parse import quote

from vireo.ops.doctor.deployment import Deployment, UnansweredError, get, reach
from vireo.ops.doctor.facts import SERVICES, Edge, Facts, Fault, Host

_HTTP = "http.edge"
COUNTED = {
    "requests": (f"{_HTTP}.downstream_rq_total",),
    "deadlines": (f"{_HTTP}.downstream_rq_max_duration_reached",),
    "refused_streams": ("edge_streams.http_local_rate_limit.rate_limited",),
    "refused_calls": (
        "edge.http_local_rate_limit.rate_limited",
        "cluster.gateway.upstream_rq_pending_overflow",
    ),
    "silent": (
        f"{_HTTP}.downstream_rq_idle_timeout",
        f"{_HTTP}.downstream_rq_timeout",
        f"{_HTTP}.downstream_rq_header_timeout",
    ),
}
"""Statistics of the admin interface whose increase is a field of `Edge`."""
OPEN = f"{_HTTP}.downstream_rq_active"
CLUSTERS = "clusters?format=json"
"""Page of the admin interface with the hosts of each cluster."""
_CONNECTED = "control_plane.connected_state"
_STATISTICS = r"^(http\.edge\.downstream_rq_|edge|cluster\.gateway\.|control_plane\.)"
_CONCURRENT = 16
_LOOK_SECONDS = 0.2
"""Seconds between two looks at the calls under way."""

Hosts: TypeAlias = Mapping[tuple[str, str], Host]
"""By cluster and address; of a look at one moment, `occupied` is the number of calls under way."""


def ask_envoy(deployment: Deployment) -> Facts:
    """Read the admin interface throughout the window."""
    where = f"Envoy's admin interface at {deployment.envoy}"
    try:
        counts_before, began = _counts(deployment), time.monotonic()
        looks = _looks(deployment)
        seconds, counts = time.monotonic() - began, _counts(deployment)
    except UnansweredError as error:
        return Facts.of_part("envoy", where, error.fault, str(error))
    except (ValueError, KeyError, TypeError) as error:
        problem = f"it isn't Envoy ({type(error).__name__}: {error})"
        return Facts.of_part("envoy", where, "failed", problem)
    counted = {
        name: sum(counts.get(each, 0.0) - counts_before.get(each, 0.0) for each in statistics)
        for name, statistics in COUNTED.items()
    }
    edge = Edge(counts.get(OPEN, 0.0), knows_control=counts.get(_CONNECTED, 1.0) > 0, **counted)
    processes = deployment.state.processes if deployment.state else ()
    names = {f"127.0.0.1:{each.port}": each.name for each in processes}
    hosts = [
        replace(_within(key, looks, seconds), name=names.get(host.address, host.address))
        for key, host in looks[-1].items()
    ]
    return Facts.of_part("envoy", where, hosts=tuple(_reached(hosts)), edges=(edge,))


def _looks(deployment: Deployment) -> list[Hosts]:
    """Return looks at the hosts throughout the window, from its begin to its end."""
    looks, until = [_hosts(deployment)], time.monotonic() + deployment.window
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(_LOOK_SECONDS, left))
        looks.append(_hosts(deployment))
    return looks


def _hosts(deployment: Deployment) -> Hosts:
    return hosts_of(get(f"http://{deployment.envoy}/{CLUSTERS}", deployment.answer).body)


def hosts_of(page: str) -> Hosts:
    """Return the pods of a page of CLUSTERS."""
    return {
        (host.cluster, host.address): host
        for status in json.loads(page).get("cluster_statuses", ())
        if status["name"].split("-")[0] in SERVICES
        for host in (_host(status["name"], each) for each in status.get("host_statuses", ()))
    }


def _counts(deployment: Deployment) -> Mapping[str, float]:
    url = f"http://{deployment.envoy}/stats?format=json&filter={quote(_STATISTICS)}"
    found = json.loads(get(url, deployment.answer).body)
    # Besides these, the list has one entry with all histograms.
    numbers = (each for each in found["stats"] if isinstance(each.get("value"), int | float))
    return {each["name"]: float(each["value"]) for each in numbers}


def _host(cluster: str, status: Mapping[str, Any]) -> Host:
    place = status["address"]["socket_address"]
    host = f"[{place['address']}]" if ":" in place["address"] else place["address"]
    health = dict(status.get("health_status", {}))
    timed_out = bool(health.pop("active_hc_timeout", False))
    discovery = health.pop("eds_health_status", "HEALTHY")
    flags = {name for name, value in health.items() if value is True}
    if discovery not in ("HEALTHY", "UNKNOWN"):
        flags.add(discovery.lower())
    counts = {each["name"]: float(each.get("value", 0)) for each in status.get("stats", ())}
    address = f"{host}:{place['port_value']}"
    timeouts = counts.get("rq_timeout", 0.0)
    return Host(
        cluster,
        address,
        address,
        frozenset(flags),
        timed_out and bool(flags),
        occupied=counts.get("rq_active", 0.0),
        all_calls=counts.get("rq_total", 0.0),
        # Envoy counts what it waited for in vain among the errors, too.
        all_errors=max(0.0, counts.get("rq_error", 0.0) - timeouts),
        all_timeouts=timeouts,
    )


def _within(key: tuple[str, str], looks: Sequence[Hosts], seconds: float) -> Host:
    """Return a host with what it did within the seconds between the first and the last look."""
    host = looks[-1][key]
    start = looks[0].get(key) or replace(host, all_calls=0.0, all_errors=0.0, all_timeouts=0.0)
    calls = host.all_calls - start.all_calls
    active = [look[key].occupied for look in looks if key in look]
    return replace(
        host,
        calls=calls,
        errors=host.all_errors - start.all_errors,
        timeouts=host.all_timeouts - start.all_timeouts,
        occupied=sum(map(bool, active)) / len(active),
        latency=fmean(active) * seconds / calls if calls else 0.0,
    )


def _reached(hosts: list[Host]) -> Iterator[Host]:
    """Yield hosts with what a connection meets, if Envoy doesn't call them."""

    def ask(host: Host) -> Fault:
        return "" if host.healthy else reach(host.address)

    with ThreadPoolExecutor(_CONCURRENT) as threads:
        for host, fault in zip(hosts, threads.map(ask, hosts), strict=True):
            yield replace(host, reach=fault)
