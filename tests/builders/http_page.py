"""Serves pages as processes do, and reads them as Prometheus and probes do."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from vireo.server.rpc.metrics import MetricsEndpoint


def page(
    port: int, path: str = "metrics", *, host: str = "127.0.0.1", accept: str = "*/*"
) -> tuple[int, str]:
    """The status and text of a page."""
    request = urllib.request.Request(f"http://{host}:{port}/{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()


@contextmanager
def served_metrics(
    registry: CollectorRegistry | None = None, probes: Mapping[str, Callable[[], str]] | None = None
) -> Iterator[str]:
    """The URL of an endpoint of metrics, of none without a registry; its last part is "metrics"."""
    endpoint = MetricsEndpoint(0, registry or CollectorRegistry(), probes=probes)
    try:
        yield f"http://127.0.0.1:{endpoint.port}/metrics"
    finally:
        endpoint.close()
