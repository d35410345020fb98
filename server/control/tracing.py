"""Traces of Envoy's listeners: which calls are sampled, and the collector of their spans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from google.protobuf.message import Message

from server.control import access
from server.control.settings import ControlSettings
from server.control.templates import filled, message
from server.rpc.endpoint import COLLECTOR, Endpoint

Document = dict[str, Any]


def clusters(settings: ControlSettings) -> Iterator[Message]:
    """Yield the collector's cluster; none without one."""
    if not settings.otlp_endpoint:
        return
    cluster = _filled(settings, 0.0)["cluster"]
    if Endpoint.of(settings.otlp_endpoint).secure:
        access.guard_cluster(cluster, COLLECTOR, settings)
    yield message(Cluster, cluster)


def trace_listener(listener: Document, settings: ControlSettings, share: float) -> None:
    """Trace a listener's calls, if there is a collector.

    Args:
        listener: its document.
        settings: the control plane's.
        share: share of the calls of callers who don't trace themselves.
    """
    if not settings.otlp_endpoint:
        return
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["tracing"] = _filled(settings, share)["tracing"]


def _filled(settings: ControlSettings, share: float) -> Document:
    collector = Endpoint.of(settings.otlp_endpoint)
    values = {
        "collector_host": collector.host,
        "collector_port": collector.port,
        "sampled_per_million": round(share * 1e6),
    }
    return filled("tracing", values)
