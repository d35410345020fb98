"""Metrics of pods, and Envoy's view of them."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from vireo.ops.stack.settings import METRICS_PORT_OFFSET
from vireo.server.errors import VireoError

_TIMEOUT = 5.0


@dataclass(frozen=True)
class Host:
    """One pod as Envoy sees it."""

    healthy: bool
    """Whether it gets calls: it passes checks, and is neither ejected nor draining."""
    checked_out: bool
    """Whether it fails the active health check."""
    requests: int
    """Calls that it got so far, without health checks."""


async def hosts(admin_port: int, cluster: str) -> dict[str, Host]:
    """Return the pods of a cluster by "address:port"; none if Envoy has no such cluster.

    Raises:
        VireoError: Envoy doesn't answer; so do the following, of what they ask.
    """
    found = {}
    document = json.loads(await _read(admin_port, "clusters?format=json"))
    for status in document.get("cluster_statuses", ()):
        for host in status.get("host_statuses", ()) if status["name"] == cluster else ():
            place = host["address"]["socket_address"]
            flags = dict(host.get("health_status", {}))
            by_discovery = flags.pop("eds_health_status", "HEALTHY") in ("HEALTHY", "UNKNOWN")
            stats = {stat["name"]: int(stat.get("value", 0)) for stat in host["stats"]}
            found[f"{place['address']}:{place['port_value']}"] = Host(
                by_discovery and not any(flags.values()),
                bool(flags.get("failed_active_health_check")),
                stats["rq_total"],
            )
    return found


async def active_requests(admin_port: int) -> int:
    """Return the requests and streams that callers have open at the edge."""
    name = "http.edge.downstream_rq_active"
    document = json.loads(await _read(admin_port, f"stats?format=json&filter={name}"))
    return sum(int(stat["value"]) for stat in document["stats"] if stat.get("name") == name)


async def counted(ports: Iterable[int]) -> Mapping[str, float]:
    """Return the sum of each metric's samples over labels and pods; `ports` are those of calls."""
    totals: defaultdict[str, float] = defaultdict(float)
    pages = (_read(port + METRICS_PORT_OFFSET, "metrics") for port in ports)
    for text in await asyncio.gather(*pages):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                totals[sample.name] += sample.value
    return totals


async def _read(port: int, path: str) -> str:
    def read() -> str:
        url = f"http://127.0.0.1:{port}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as page:
                text: str = page.read().decode()
        except OSError as error:
            raise VireoError(f"{url} doesn't answer: {error}") from error
        return text

    return await asyncio.to_thread(read)
