"""What Envoy itself says of the pods that it sends to."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from dataclasses import dataclass
from typing import Any

_TIMEOUT = 5.0


@dataclass(frozen=True)
class Host:
    """One pod as Envoy sees it."""

    healthy: bool
    """Whether it would be sent to: it passes checks, and is neither ejected nor draining."""
    checked_out: bool
    """Whether it fails the active health check: until it passes again it gets nothing."""
    requests: int
    """Calls sent to it so far, health checks not counted."""


async def hosts(admin_port: int, cluster: str) -> dict[str, Host]:
    """The pods of a cluster by "address:port"; none where Envoy has no such cluster."""
    document = json.loads(await asyncio.to_thread(_read, admin_port, "clusters?format=json"))
    return {
        _address(host): Host(_healthy(host), _checked_out(host), _requests(host))
        for status in document.get("cluster_statuses", ())
        if status["name"] == cluster
        for host in status.get("host_statuses", ())
    }


async def active_requests(admin_port: int) -> int:
    """Return the requests and streams that callers have open at the edge."""
    name = "http.edge.downstream_rq_active"
    document = json.loads(
        await asyncio.to_thread(_read, admin_port, f"stats?format=json&filter={name}")
    )
    return sum(int(stat["value"]) for stat in document["stats"] if stat.get("name") == name)


def _read(admin_port: int, path: str) -> bytes:
    url = f"http://127.0.0.1:{admin_port}/{path}"
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
        content: bytes = response.read()
        return content


def _address(host: dict[str, Any]) -> str:
    place = host["address"]["socket_address"]
    return f"{place['address']}:{place['port_value']}"


def _healthy(host: dict[str, Any]) -> bool:
    flags = dict(host.get("health_status", {}))
    by_discovery = flags.pop("eds_health_status", "HEALTHY")
    return by_discovery in ("HEALTHY", "UNKNOWN") and not any(flags.values())


def _checked_out(host: dict[str, Any]) -> bool:
    return bool(host.get("health_status", {}).get("failed_active_health_check"))


def _requests(host: dict[str, Any]) -> int:
    return next(int(stat.get("value", 0)) for stat in host["stats"] if stat["name"] == "rq_total")
